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
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import Bool, Int32
from PIL import features

from jaxnets.data.dataset import DataError, Dataset, Sources, Split
from jaxnets.data.drawn_glyphs import DrawnGlyphs, draw_glyphs
from jaxnets.data.fonts import Font, fonts_within, read_fonts, shipped_fonts
from jaxnets.data.place import existing_folder
from jaxnets.data.threads import Progress
from jaxnets.files import read_regular, replacing
from jaxnets.naming import quoted

_FORMAT = 1  # of the cache; any change of the drawings is a new number
_UNSEEN = 0.25  # the share of the characters, and of the families, that is for the test
_SMALLEST, _LARGEST = 8, 512
_TRAIN, _TEST, _GALLERY = "train", "test", "test/gallery"
_CHARACTERS = "characters.txt"
_LONGEST = 2**24  # bytes of that file; all of Unicode has four million


class _Sides(NamedTuple):
    """Of each design, whether it is for the test, and if it is, whether it enrols characters."""

    held_out: Bool[np.ndarray, " F"]
    enrols: Bool[np.ndarray, " F"]


def load_glyphs(
    directory: str | None = None,
    *,
    size: int = 32,
    seed: int = 0,
    skip_unreadable: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Characters of the fonts in a folder, or of matplotlib's own, white on black, [N, size, size, 1].

    A quarter of the characters are for the test, and a quarter of the families: two at least where there are four, so
    that pictures of a character differ by more than weight and slant. Other characters in these families, and these in
    other ones, are left out. Of pictures of a class that are the same to the pixel there is one in a split, and a class
    of the test has two pictures or more.

    Args:
      directory: of .ttf, .otf and .ttc files, in subfolders too; None takes matplotlib's DejaVu and STIX. If it has the
        folders train and test, these have the fonts of either side, which are not drawn by lot then; and if there is
        test/gallery, pictures in its fonts alone enrol a character, for identification. If it has characters.txt, in
        UTF-8, there are no other characters than its; spaces and line ends do not count.
      size: 8 to 512 pixels.
      seed: of the draw of characters and families.
      skip_unreadable: leave out files that are no readable font, rather than refuse the set.
      on_progress: called with (fonts drawn, fonts), where they are not in the cache.

    Returns:
      A set whose question is open: no class is in both splits. Classes of training come first. Its notes name the fonts
      of either side with their SHA-256. Its sources are the designs of the test.

    Raises:
      DataError: if there are no fonts, or too few families or characters; for a family that is in train and in test.
    """
    name = "glyphs" if directory is None else f"glyphs:{quoted(directory)}"
    if not _SMALLEST <= size <= _LARGEST:
        raise DataError(f"{name}: size is {size}; give {_SMALLEST} to {_LARGEST} pixels.")
    if directory is None:
        paths, where, characters, sides = shipped_fonts(), "matplotlib's folder of fonts", None, None
    else:
        folder = existing_folder(directory, "name a folder of .ttf, .otf or .ttc files")
        paths, where, characters = fonts_within(folder), str(quoted(folder)), _characters_in(folder / _CHARACTERS)
        sides = _sides_of(paths, folder)
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
    glyphs = _drawn_once(fonts, size, characters, on_progress)
    fonts = [fonts[number] for number in glyphs.fonts]
    families = np.unique(glyphs.family_of)
    if len(families) < 2:
        raise DataError(f"{name}: its fonts are of one family; there must be another, for the test.")
    rng = np.random.RandomState(seed)  # the one generator whose numbers NumPy promises never to change
    if sides is None:
        number = max(round(_UNSEEN * len(families)), 2 if len(families) >= 4 else 1)
        held_out = np.isin(glyphs.family_of, rng.permutation(families)[:number])
    else:
        held_out = np.array([sides[font.path] != _TRAIN for font in fonts])
        _check_sides(name, fonts, glyphs, held_out)
    unseen = np.zeros(len(glyphs.classes), bool)
    unseen[rng.permutation(len(unseen))[: round(_UNSEEN * len(unseen))]] = True
    if sides is not None and _GALLERY in sides.values():
        enrols = np.array([sides[font.path] == _GALLERY for font in fonts])
        if not enrols.any():
            raise DataError(f"{name}: the fonts in {_GALLERY} are copies of others; put another one there.")
    else:
        enrols = np.ones(len(fonts), bool)
    return _split(name, glyphs, fonts, _Sides(held_out, enrols), unseen, tuple(unreadable), seed)


def _characters_in(path: Path) -> frozenset[int] | None:
    """The code points in a file of text; None if there is no file."""
    if not path.exists():
        return None
    try:
        text = read_regular(path, limit=_LONGEST).decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{quoted(path)} cannot be read as text in UTF-8: {quoted(str(error), 100)}.") from error
    characters = frozenset(map(ord, "".join(text.removeprefix("\ufeff").split())))
    if not characters:
        raise DataError(f"{quoted(path)} has no characters; name some, or delete it to take all that the fonts share.")
    return characters


def _sides_of(paths: Sequence[Path], folder: Path) -> dict[Path, str] | None:
    """Which of the three folders each font is in; None if there are no such folders."""
    if not all((folder / side).is_dir() for side in (_TRAIN, _TEST)):
        return None
    sides = {}
    for path in paths:
        inside = [side for side in (_TRAIN, _GALLERY, _TEST) if path.is_relative_to(folder / side)]
        if not inside:
            raise DataError(f"{quoted(path)} is neither in {quoted(folder)}/train nor in its test; move it there.")
        sides[path] = inside[0]
    return sides


def _check_sides(name: str, fonts: Sequence[Font], glyphs: DrawnGlyphs, held_out: Bool[np.ndarray, " F"]) -> None:
    """Refuses a family on both sides, and a side without fonts."""
    for family in np.unique(glyphs.family_of):
        members = glyphs.family_of == family
        if held_out[members].any() and not held_out[members].all():
            in_train, in_test = (fonts[np.flatnonzero(members & (held_out == side))[0]].path for side in (False, True))
            raise DataError(
                f"{name}: {quoted(in_train)} and {quoted(in_test)} are of one family, by name or by look; put both in "
                "train or both in test."
            )
    for side, has_fonts in zip((_TRAIN, _TEST), ((~held_out).any(), held_out.any()), strict=True):
        if not has_fonts:
            raise DataError(f"{name}: {side} has no fonts that are no copies of others; put some there.")


def _split(
    name: str,
    glyphs: DrawnGlyphs,
    fonts: Sequence[Font],
    sides: _Sides,
    unseen: Bool[np.ndarray, " C"],
    notes: tuple[str, ...],
    seed: int,
) -> Dataset:
    held_out = sides.held_out
    is_test = held_out[glyphs.design_of]
    first = _first_of_each(glyphs, is_test)
    train = np.flatnonzero(first & ~is_test & ~unseen[glyphs.class_of])
    test = np.flatnonzero(first & is_test & unseen[glyphs.class_of])
    counts = np.bincount(glyphs.class_of[test], minlength=len(unseen))
    alone = int((counts == 1).sum())
    test = test[counts[glyphs.class_of[test]] > 1]
    if len(np.unique(glyphs.class_of[train])) < 2 or len(np.unique(glyphs.class_of[test])) < 2:
        raise DataError(
            f"{name}: its {len(fonts)} designs have too few characters in common, {len(unseen)}; both sides need two "
            "or more, and those of the test two pictures each."
        )
    order = [*np.unique(glyphs.class_of[train]), *np.unique(glyphs.class_of[test])]
    label_of = np.full(len(unseen), -1, np.int32)
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
        sources=_sources(fonts, sides, glyphs.design_of[test]),
    )


def _sources(fonts: Sequence[Font], sides: _Sides, design_of: Int32[np.ndarray, " N"]) -> Sources:
    """The designs of the test; designs of the same name are told apart by their files' names."""
    designs = np.flatnonzero(sides.held_out).tolist()
    names = [f"{quoted(fonts[number].family)} {quoted(fonts[number].style)}" for number in designs]
    where = [f"{name} ({quoted(fonts[n].path.name)})" for name, n in zip(names, designs, strict=True)]
    told = [full if names.count(name) > 1 else name for name, full in zip(names, where, strict=True)]
    return Sources(np.searchsorted(designs, design_of).astype(np.int32), tuple(told), sides.enrols[designs])


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


def _drawn_once(
    fonts: Sequence[Font], size: int, characters: frozenset[int] | None, on_progress: Progress | None
) -> DrawnGlyphs:
    """Their characters from the cache, or drawn into it; there is one entry for the same fonts, size and libraries."""
    known = [_FORMAT, size, PIL.__version__, features.version("freetype2"), unicodedata.unidata_version]
    known += [] if characters is None else [sorted(characters)]
    key = hashlib.sha256(repr([*known, *((font.sha256, font.index) for font in fonts)]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "jaxnets" / "glyphs" / f"{key}.npz"
    kept = _read(path)
    if kept is not None:
        return kept
    glyphs = draw_glyphs(fonts, size, characters, on_progress)
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
