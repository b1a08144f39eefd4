"""Font files: which there are, which characters they have, and a character drawn small."""

import dataclasses
import hashlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTCollection, TTFont, TTLibError
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxnets.data.dataset import DataError
from jaxnets.files import read_regular
from jaxnets.naming import quoted

ENDINGS = (".ttf", ".otf", ".ttc")
# Matplotlib's fonts of whole alphabets: designs of four families.
SHIPPED = (
    *(f"DejaVuSans{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")),
)
_LARGEST = 2**29  # bytes of a file; fonts of all Chinese characters have some tens of millions
_EM = 0.8  # of the picture's height; characters that are larger than the picture are drawn smaller


@dataclasses.dataclass(frozen=True)
class Font:
    """One design.

    Attributes:
      path: its file.
      index: its place in a collection (.ttc), else 0.
      family: as the file names it, without weight and slant.
      style: weight and slant.
      sha256: of the file.
      characters: code points that it has a glyph for.
    """

    path: Path
    index: int
    family: str
    style: str
    sha256: str
    characters: frozenset[int] = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return f"{quoted(self.family)} {quoted(self.style)} ({quoted(self.path.name)}, SHA-256 {self.sha256})"


def shipped_fonts() -> list[Path]:
    """The files of matplotlib's that have a whole alphabet."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / name for name in SHIPPED if (folder / name).is_file()]


def fonts_within(folder: Path) -> list[Path]:
    """The font files of a folder and its subfolders, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())


def read_fonts(path: Path) -> list[Font]:
    """The designs in a file.

    Raises:
      DataError: if it cannot be read, or is no font with outlines and a table of Unicode characters.
    """
    try:
        return list(_read(path, read_regular(path, limit=_LARGEST)))
    except (OSError, TTLibError, LookupError, ValueError, TypeError, AssertionError, AttributeError) as error:
        reason = quoted(str(error) or type(error).__name__, 100)
        raise DataError(f"{quoted(path)} cannot be read as a font ({reason}); take it out of the folder.") from error


def _read(path: Path, content: bytes) -> Iterator[Font]:
    sha256, file = hashlib.sha256(content).hexdigest(), io.BytesIO(content)
    faces = TTCollection(file, lazy=True).fonts if path.suffix.lower() == ".ttc" else [TTFont(file, lazy=True)]
    for index, face in enumerate(faces):
        names = face["name"]
        family = names.getDebugName(16) or names.getDebugName(1) or path.stem
        style = names.getDebugName(17) or names.getDebugName(2) or "Regular"
        characters = frozenset(face.getBestCmap() or {})
        # One that Pillow cannot draw is refused here: its program runs once something is drawn, if only the box.
        ImageFont.truetype(path, 16, index, layout_engine=ImageFont.Layout.BASIC).getmask("\U0010ffff")
        yield Font(path, index, family, style, sha256, characters)


class Pen:
    """Draws the characters of a font, white on black, on size×size pixels.

    The baseline is where the font's own ascent and descent leave it in the middle; from left to right the ink is in the
    middle. A picture is whole: a character that would not fit is drawn smaller, or moved.
    """

    def __init__(self, font: Font, size: int) -> None:
        self._font, self._size = font, size
        self._em = max(round(_EM * size), 1)
        self._fonts = {self._em: self._sized(self._em)}
        ascent, descent = self._fonts[self._em].getmetrics()
        self._baseline = (size + ascent - descent) // 2

    def draw(self, character: str) -> UInt8[np.ndarray, "size size"]:
        sized, (left, top, right, bottom) = self._fitting(character)
        x = (self._size - (right - left)) // 2 - left
        y = min(max(self._baseline, -top), self._size - bottom)
        picture = Image.new("L", (self._size, self._size))
        ImageDraw.Draw(picture).text((x, y), character, fill=255, font=sized, anchor="ls")
        return np.asarray(picture)

    def _fitting(self, character: str) -> tuple[ImageFont.FreeTypeFont, tuple[int, int, int, int]]:
        em = self._em
        while True:
            sized = self._fonts.get(em) or self._fonts.setdefault(em, self._sized(em))
            left, top, right, bottom = map(round, sized.getbbox(character, anchor="ls"))
            largest = max(right - left, bottom - top)
            if largest <= self._size or em == 1:
                return sized, (left, top, right, bottom)
            em = max(min(math.floor(em * self._size / largest), em - 1), 1)

    def _sized(self, em: int) -> ImageFont.FreeTypeFont:
        # Without shaping: a character alone, as the table of characters has it.
        return ImageFont.truetype(self._font.path, em, self._font.index, layout_engine=ImageFont.Layout.BASIC)
