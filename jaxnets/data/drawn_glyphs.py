"""The characters of fonts, drawn, without pictures that are of no character and designs that are there twice.

Drawings that are left out are counted: blanks; boxes, which some fonts have for characters that they lack; and
designs that are copies of another.
"""

import collections
import dataclasses
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from jaxnets.data.fonts import Font, Pen

# A picture that more characters of a font share stands for a missing character, whatever form its box has. Fewer look
# alike: A, Α and А, or half a dozen dashes.
_SHARED = 8
# Designs that draw this share of their common characters to the pixel alike are one; half of it, they are one family.
_COPY, _RELATED = 0.9, 0.5
_COMMON = 20  # characters to tell that by, at least
_DESIGNS = 0.75  # the share of the designs that a character must be in
_NO_CHARACTER = ("C", "Z")  # Unicode's controls, formats, private and unassigned codes; its separators


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnGlyphs:
    """Pictures of characters.

    Attributes:
      images: [P, H, W] uint8.
      design_of: [P] int32, an index into `fonts`.
      class_of: [P] int32, an index into `classes`.
      fonts: [F] indices of the given fonts that are no copies of another design.
      family_of: [F] int32, a number for each; fonts whose pictures are largely the same have one.
      classes: the characters of each class, which look alike to the pixel in some design.
      left_out: sentences that count the omissions.
    """

    images: UInt8[np.ndarray, "P H W"]
    design_of: Int32[np.ndarray, " P"]
    class_of: Int32[np.ndarray, " P"]
    fonts: Int32[np.ndarray, " F"]
    family_of: Int32[np.ndarray, " F"]
    classes: tuple[str, ...]
    left_out: tuple[str, ...]


def draw_glyphs(
    fonts: Sequence[Font],
    size: int,
    characters: frozenset[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DrawnGlyphs:
    """Every character that three quarters of the designs have, in each of them that has it.

    Args:
      fonts: one or more designs.
      size: height and width in pixels.
      characters: code points; others are left out. None leaves out none.
      on_progress: called with (fonts drawn, fonts).
    """
    codes = [code for code in _common_characters(fonts) if characters is None or code in characters]
    drawn: dict[int, dict[int, bytes]] = {}  # by font, by character
    families = _Sets()
    counts: collections.Counter[str] = collections.Counter()
    for number, font in enumerate(fonts):
        pictures = _of_characters(font, [code for code in codes if code in font.characters], size, counts)
        alike = {other: _share_alike(pictures, of_other) for other, of_other in drawn.items()}
        if max(alike.values(), default=0.0) >= _COPY:
            counts["designs that are copies of another"] += 1
        elif pictures:
            drawn[number] = pictures
            families.join([number, *(other for other, share in alike.items() if share >= _RELATED)])
            families.join([number, *(other for other in drawn if fonts[other].family == font.family)])
        if on_progress is not None:
            on_progress(number + 1, len(fonts))

    looks = _Sets()
    for pictures in drawn.values():
        for group in _by_picture(pictures).values():
            looks.join(group)
    members = collections.defaultdict(list)
    for code in sorted({code for pictures in drawn.values() for code in pictures}):
        members[looks.first_of(code)].append(code)
    class_of = {code: number for number, group in enumerate(members.values()) for code in group}
    merged = sum(len(group) for group in members.values() if len(group) > 1)
    classes = tuple("".join(map(chr, group)) for group in members.values())
    said = [f"{number:,} {what} are left out" for what, number in counts.items() if number]
    if merged:
        said.append(f"{merged:,} characters look like another to the pixel, and share a class with it")
    flat = [
        (design, class_of[code], picture) for design, of in enumerate(drawn.values()) for code, picture in of.items()
    ]
    images = np.frombuffer(b"".join(picture for _, _, picture in flat), np.uint8).reshape(-1, size, size)
    return DrawnGlyphs(
        images=images,
        design_of=np.array([design for design, _, _ in flat], np.int32),
        class_of=np.array([number for _, number, _ in flat], np.int32),
        fonts=np.array([*drawn], np.int32),
        family_of=np.array([families.first_of(number) for number in drawn], np.int32),
        classes=classes,
        left_out=tuple(said),
    )


def _common_characters(fonts: Sequence[Font]) -> list[int]:
    designs = collections.Counter(code for font in fonts for code in font.characters)
    return sorted(
        code
        for code, number in designs.items()
        if number >= _DESIGNS * len(fonts) and unicodedata.category(chr(code))[0] not in _NO_CHARACTER
    )


def _of_characters(font: Font, codes: list[int], size: int, counts: collections.Counter[str]) -> dict[int, bytes]:
    """The pictures that show a character; all others are counted."""
    pen = Pen(font, size)
    unknown = next(code for code in range(0x10FFFF, 0, -1) if code not in font.characters)
    drawn = {code: _drawn(pen, code) for code in (unknown, *codes)}
    box = drawn.pop(unknown)
    pictures = {code: picture for code, picture in drawn.items() if picture is not None}
    counts["characters that FreeType cannot draw"] += len(drawn) - len(pictures)
    kept: dict[int, bytes] = {}
    for picture, group in _by_picture(pictures).items():
        if not any(picture):
            counts["blank pictures"] += len(group)
        elif picture == box or len(group) > _SHARED:
            counts["pictures of a box in place of a character"] += len(group)
        else:
            kept |= dict.fromkeys(group, picture)
    return dict(sorted(kept.items()))


def _drawn(pen: Pen, code: int) -> bytes | None:
    try:
        return pen.draw(chr(code)).tobytes()
    except OSError:  # outlines or instructions that do not hold to the format
        return None


def _by_picture(pictures: dict[int, bytes]) -> dict[bytes, list[int]]:
    groups = collections.defaultdict(list)
    for code, picture in pictures.items():
        groups[picture].append(code)
    return groups


def _share_alike(pictures: dict[int, bytes], others: dict[int, bytes]) -> float:
    common = pictures.keys() & others.keys()
    return sum(pictures[code] == others[code] for code in common) / len(common) if len(common) >= _COMMON else 0.0


class _Sets:
    """Disjoint sets of numbers; one that was not joined with others is alone."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def first_of(self, number: int) -> int:
        """The smallest number of its set."""
        while number in self._above:
            number = self._above[number]
        return number

    def join(self, numbers: Sequence[int]) -> None:
        firsts = sorted({self.first_of(number) for number in numbers})
        self._above |= dict.fromkeys(firsts[1:], firsts[0])
