"""A hard set out of Debian's fonts: the kanji of JIS X 0208, printed in training, and the test's by other hands.

python -m experiments.recognition.kanji FOLDER

Links the fonts that the packages below have installed into FOLDER, for `--data glyphs:FOLDER`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.run.terminal import UserError, counted, main, parse
from jaxnets.files import write_atomically
from jaxnets.naming import quoted

# By folder, Debian's packages and the files of each.
FONTS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "fonts-dejima-mincho": ("dejima-mincho-r227.ttf",),
        "fonts-hanazono": ("HanaMinA.ttf",),
        "fonts-horai-umefont": (
            "ume-hgo4.ttf",
            "ume-hgo5.ttf",
            "ume-pgc5.ttf",
            "ume-pmo3.ttf",
            "ume-pms3.ttf",
            "ume-tgs4.ttf",
        ),
        "fonts-ipafont-gothic": ("ipag.ttf",),
        "fonts-ipafont-mincho": ("ipam.ttf",),
        "fonts-ipamj-mincho": ("ipamjm.ttf",),
        "fonts-komatuna": ("komatuna.ttf",),
        "fonts-konatu": ("Konatu.ttf",),
        "fonts-migmix": ("migu-1m-bold.ttf", "migu-1m-regular.ttf"),
        "fonts-monapo": ("monapo.ttf",),
        "fonts-morisawa-bizud-mincho": ("BIZUDMincho-Regular.ttf",),
        "fonts-motoya-l-cedar": ("MTLc3m.ttf",),
        "fonts-mplus": tuple(f"Mplus1-{weight}.otf" for weight in ("Black", "Bold", "Light", "Regular", "Thin")),
        "fonts-reggae": ("ReggaeOne-Regular.ttf",),
        "fonts-sawarabi-gothic": ("sawarabi-gothic-medium.ttf",),
        "fonts-sawarabi-mincho": ("sawarabi-mincho-medium.ttf",),
        "fonts-vlgothic": ("VL-Gothic-Regular.ttf",),
    },
    # Brushes: printed, semi-cursive and cursive hands. Handwriting: klee, kiloji, seto. Print: round, and of dots.
    "test": {
        "fonts-aoyagi-kouzan-t": ("AoyagiKouzanT.ttf",),
        "fonts-aoyagi-soseki": ("aoyagi-soseki.ttf",),
        "fonts-dotgothic16": ("DotGothic16-Regular.ttf",),
        "fonts-kiloji": ("kiloji.ttf",),
        "fonts-klee": ("KleeOne-Regular.ttf",),
        "fonts-kouzan-mouhitsu": ("kouzan-mouhitsu.ttf", "kouzan-mouhitsu-gyosho.ttf", "KouzanBrushFontSousyo.ttf"),
        "fonts-motoya-l-maruberi": ("MTLmr3m.ttf",),
        "fonts-seto": ("setofont.ttf",),
    },
    "test/gallery": {"fonts-morisawa-bizud-gothic": ("BIZUDGothic-Regular.ttf",)},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Link Debian's Japanese fonts into a folder, as a set of kanji whose test is in other hands than training."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder for the links, and for characters.txt"""
    fonts: Path = Path("/usr/share/fonts")
    """where the packages' fonts are"""


def command(config: Config) -> None:
    """Links every font, or none if one is missing or if a file that is no link is in its place."""
    found = {path.name: path for path in sorted(config.fonts.rglob("*")) if path.is_file()}
    packages = [package for of_side in FONTS.values() for package, files in of_side.items() if set(files) - {*found}]
    if packages:
        raise UserError(
            f"below {quoted(config.fonts)} the fonts of {counted(len(packages), 'package')} are missing; install "
            f"{'it' if len(packages) == 1 else 'them'}: apt-get install {' '.join(sorted(packages))}"
        )
    links = {
        config.folder / side / name: found[name].resolve()
        for side, of_side in FONTS.items()
        for files in of_side.values()
        for name in files
    }
    for link in links:
        if link.exists() and not link.is_symlink():
            raise UserError(f"{quoted(link)} is a file of its own and no link; name another folder")
    for link, font in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(font)
    write_atomically(config.folder / "characters.txt", "\n".join(kanji()) + "\n")
    print(
        f"{len(kanji()):,} kanji; train with: python -m experiments.recognition --data glyphs:{config.folder} --augment"
    )


def kanji() -> list[str]:
    """The 6,355 of JIS X 0208, in its order: rows 16 to 84, as EUC-JP encodes them."""
    pairs = ((row, cell) for row in range(0xB0, 0xF5) for cell in range(0xA1, 0xFF))
    return [character for pair in pairs if (character := bytes(pair).decode("euc_jp", "ignore"))]


if __name__ == "__main__":
    main(lambda: command(parse(Config, "python -m experiments.recognition.kanji", examples=("KANJI",))))
