"""The set of kanji out of Debian's fonts, whose files are stood in for here."""

import pytest

from experiments.recognition.kanji import FONTS, Config, command, kanji
from experiments.run.terminal import UserError


@pytest.fixture
def installed(tmp_path):
    """The files of all packages, each in a folder of its package."""
    for of_side in FONTS.values():
        for package, files in of_side.items():
            (tmp_path / "fonts" / package).mkdir(parents=True)
            for name in files:
                (tmp_path / "fonts" / package / name).write_text(name)
    return tmp_path / "fonts"


def test_jis_x_0208_has_6355_kanji_from_row_16_to_84():
    """Its first and last of either level: 亜 … 腕 (row 47, cell 51) and 弌 … 熙."""
    known = kanji()
    assert len(known) == len(set(known)) == 6355
    assert (known[0], known[2964], known[2965], known[-1]) == ("亜", "腕", "弌", "熙")
    assert all("\u4e00" <= character <= "\u9fff" for character in known)


def test_fonts_are_linked_to_their_sides_and_again(installed, tmp_path, capsys):
    folder = tmp_path / "set"
    for _ in range(2):
        command(Config(folder, installed))
    linked = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.?tf")}
    assert linked == {f"{side}/{name}": name for side, of in FONTS.items() for files in of.values() for name in files}
    assert len([path for path in linked if path.startswith("train/")]) >= 24
    assert len([path for path in linked if path.startswith("test/")]) >= 9
    assert (folder / "characters.txt").read_text(encoding="utf-8").split() == kanji()
    assert f"--data glyphs:{folder}" in capsys.readouterr().out


def test_missing_packages_are_named(installed, tmp_path):
    (installed / "fonts-klee" / "KleeOne-Regular.ttf").unlink()
    with pytest.raises(UserError, match=r"the fonts of 1 package are missing; install it: apt-get install fonts-klee$"):
        command(Config(tmp_path / "set", installed))
    assert not (tmp_path / "set").exists()


def test_files_that_are_no_links_are_left_alone(installed, tmp_path):
    own = tmp_path / "set" / "test" / "setofont.ttf"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(UserError, match=r"setofont\.ttf is a file of its own and no link; name another folder"):
        command(Config(tmp_path / "set", installed))
    assert own.read_text() == "mine" and not (tmp_path / "set" / "train").exists()
