"""Printed characters: identities that are real and many, in designs of fonts, for questions about classes never seen.

An identity is a character, and each design of it a picture. Those of the test are characters that training has none of,
in families of fonts that it has none of.
"""

import hashlib
import os
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Bool
from PIL import features

from jaxnets.data.dataset import DataError, Dataset, Split
from jaxnets.data.drawn_glyphs import DrawnGlyphs, draw_glyphs
from jaxnets.data.fonts import Font, fonts_within, read_fonts, shipped_fonts
from jaxnets.data.place import existing_folder
from jaxnets.data.threads import Progress
from jaxnets.files import replacing
from jaxnets.naming import quoted

_FORMAT = 1  # of the cache; a change of what is drawn, or how, is a new number
_UNSEEN = 0.25  # the share of the characters, and of the families, that is for the test
_SMALLEST, _LARGEST = 8, 512


def load_glyphs(
    directory: str | None = None,
    *,
    size: int = 32,
    seed: int = 0,
    skip_unreadable: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Characters of the fonts in a folder, or of those that matplotlib ships, white on black, [N, size, size, 1].

    A quarter of the characters are for the test, and a quarter of the families: two at least where there are four, so
    that pictures of a character differ by more than weight and slant. Other characters in these families, and these in
    other ones, are left out. Of pictures of a class that are the same to the pixel there is one in a split, and a class
    of the test has two pictures or more.

    Args:
      directory: of .ttf, .otf and .ttc files, in subfolders too; None takes matplotlib's DejaVu and STIX.
      size: 8 to 512 pixels.
      seed: of the draw of characters and families.
      skip_unreadable: leave out files that are no readable font, rather than refuse the set.
      on_progress: called with (fonts drawn, fonts), where they are not in the cache.

    Returns:
      A set whose question is open: no class is in both splits. Classes of training come first. Its notes name the fonts
      of either side with their SHA-256.

    Raises:
      DataError: if there are no fonts, or too few families or characters.
    """
    name = "glyphs" if directory is None else f"glyphs:{quoted(directory)}"
    if not _SMALLEST <= size <= _LARGEST:
        raise DataError(f"{name}: size is {size}; give {_SMALLEST} to {_LARGEST} pixels.")
    if directory is None:
        paths, where = shipped_fonts(), "matplotlib's folder of fonts"
    else:
        folder = existing_folder(directory, "name a folder of .ttf, .otf or .ttc files")
        paths, where = fonts_within(folder), str(quoted(folder))
    fonts: list[Font] = []
    unreadable = []
    for path in paths:
        try:
            fonts += read_fonts(path)
        except DataError as error:
            if not skip_unreadable:
                raise
            unreadable.append(f"Left out: {error}")
    if not fonts:
        raise DataError(f"{name}: there is no font in {where}; put .ttf, .otf or .ttc files there.")
    glyphs = _drawn_once(fonts, size, on_progress)
    fonts = [fonts[number] for number in glyphs.fonts]
    return _split(name, glyphs, fonts, seed, tuple(unreadable))


def _split(name: str, glyphs: DrawnGlyphs, fonts: Sequence[Font], seed: int, notes: tuple[str, ...]) -> Dataset:
    families = np.unique(glyphs.family_of)
    if len(families) < 2:
        raise DataError(f"{name}: its fonts are of one family; there must be another, for the test.")
    rng = np.random.RandomState(seed)  # the one generator whose numbers NumPy promises never to change
    number = max(round(_UNSEEN * len(families)), 2 if len(families) >= 4 else 1)
    held_out = np.isin(glyphs.family_of, rng.permutation(families)[:number])
    classes = rng.permutation(len(glyphs.classes))
    unseen = np.zeros(len(classes), bool)
    unseen[classes[: round(_UNSEEN * len(classes))]] = True

    is_test = held_out[glyphs.design_of]
    first = _first_of_each(glyphs, is_test)
    train = np.flatnonzero(first & ~is_test & ~unseen[glyphs.class_of])
    test = np.flatnonzero(first & is_test & unseen[glyphs.class_of])
    counts = np.bincount(glyphs.class_of[test], minlength=len(classes))
    alone = int((counts == 1).sum())
    test = test[counts[glyphs.class_of[test]] > 1]
    if len(np.unique(glyphs.class_of[train])) < 2 or len(np.unique(glyphs.class_of[test])) < 2:
        raise DataError(
            f"{name}: its {len(fonts)} designs have too few characters in common, {len(classes)}; both sides need two "
            "or more, and those of the test two pictures each."
        )
    order = [*np.unique(glyphs.class_of[train]), *np.unique(glyphs.class_of[test])]
    label_of = np.full(len(classes), -1, np.int32)
    label_of[order] = np.arange(len(order))
    repeated = int((~first).sum())
    said = [*glyphs.left_out]
    if repeated:
        said.append(f"{repeated:,} pictures repeat one of their class to the pixel and are left out")
    if alone:
        said.append(f"{alone:,} characters with one picture in the test's designs are left out")
    designs = list(zip(map(str, fonts), held_out.tolist(), strict=True))
    of_training, of_test = ("; ".join(font for font, out in designs if out == side) for side in (False, True))
    return Dataset(
        train=Split(glyphs.images[train, :, :, None], label_of[glyphs.class_of[train]]),
        test=Split(glyphs.images[test, :, :, None], label_of[glyphs.class_of[test]]),
        classes=tuple(_named(glyphs.classes[number]) for number in order),
        name=name,
        notes=(
            *notes,
            *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said),
            f"Training has {len(np.unique(glyphs.class_of[train])):,} characters in {of_training}.",
            f"The test has {len(np.unique(glyphs.class_of[test])):,} others (seed {seed}) in {of_test}.",
        ),
        open_set=True,
    )


def _first_of_each(glyphs: DrawnGlyphs, is_test: Bool[np.ndarray, " P"]) -> Bool[np.ndarray, " P"]:
    """Which pictures repeat no earlier one of their class and side."""
    seen = set()
    first = np.zeros(len(glyphs.images), bool)
    for i, (image, label, side) in enumerate(zip(glyphs.images, glyphs.class_of, is_test, strict=True)):
        key = (int(label), bool(side), image.tobytes())
        first[i] = key not in seen
        seen.add(key)
    return first


def _named(characters: str) -> str:
    """A class's name: its first character where that can stand alone, and the code points of all."""
    shown = characters[0] if characters[0].isprintable() and not unicodedata.combining(characters[0]) else ""
    return " ".join([shown, *(f"U+{ord(character):04X}" for character in characters)]).strip()


def _drawn_once(fonts: Sequence[Font], size: int, on_progress: Progress | None) -> DrawnGlyphs:
    """Their characters from the cache, or drawn into it; there is one entry for the same fonts, size and libraries."""
    known = [_FORMAT, size, PIL.__version__, features.version("freetype2"), unicodedata.unidata_version]
    key = hashlib.sha256(repr([*known, *((font.sha256, font.index) for font in fonts)]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "jaxnets" / "glyphs" / f"{key}.npz"
    kept = _read(path)
    if kept is not None:
        return kept
    glyphs = draw_glyphs(fonts, size, on_progress)
    try:
        with replacing(path) as file:
            np.savez(
                file,
                images=glyphs.images,
                design_of=glyphs.design_of,
                class_of=glyphs.class_of,
                fonts=glyphs.fonts,
                family_of=glyphs.family_of,
                classes=np.array(glyphs.classes),
                left_out=np.array(glyphs.left_out, np.str_),
            )
    except OSError:
        pass  # they are drawn again next time
    return glyphs


def _read(path: Path) -> DrawnGlyphs | None:
    try:
        with np.load(path) as entry:
            arrays = {name: entry[name] for name in entry.files}  # a damaged one fails its checksum here
        classes, left_out = (tuple(arrays.pop(name).tolist()) for name in ("classes", "left_out"))
        return DrawnGlyphs(**arrays, classes=classes, left_out=left_out)
    except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return None  # missing, or damaged in one way or another
