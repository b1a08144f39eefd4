"""PNG where Pillow falls short: a transparent colour of other than 8 bits, and faults beside the pixels.

The format: https://www.w3.org/TR/png-3/
"""

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ESSENTIAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


class Transparency(NamedTuple):
    """A transparent colour that is compared with samples as they are stored, of 2, 4 or 16 bits.

    Attributes:
      high: the picture as Pillow loads it; in RGB of 16 bits, the upper bytes of its samples.
      low: in RGB of 16 bits, the lower bytes of its samples.
      colour: the transparent one, as `high` has it, or of 16 bits where there is `low`.
    """

    high: Image.Image
    low: Image.Image | None
    colour: int | tuple[int, int, int]

    @classmethod
    def of(cls, picture: Image.Image, rawmode: str, content: bytes) -> "Transparency | None":
        """A loaded picture's transparency of this kind; None if it has none, or one that Pillow itself applies.

        Args:
          picture: loaded.
          rawmode: Pillow's name for the way in which its samples are stored.
          content: the file that it was opened from.
        """
        colour = picture.info.get("transparency")
        if picture.format != "PNG":
            return None
        if isinstance(colour, int):
            bits = int(rawmode[-1]) if rawmode in ("L;2", "L;4") else 0
            if bits and colour < 2**bits:
                return cls(picture, None, colour * 255 // (2**bits - 1))
            if picture.mode[0] == "I":
                return cls(picture, None, colour)
        if isinstance(colour, tuple) and rawmode == "RGB;16B":
            with Image.open(io.BytesIO(content), formats=["PNG"]) as low:
                low.tile = [(*tile[:3], "RGB;16L") for tile in low.tile]  # type: ignore[misc]  # swaps the two bytes
                low.load()
            return cls(picture, low, colour)
        return None

    def within(self, box: tuple[int, int, int, int]) -> Bool[np.ndarray, "H W"]:
        """Which pixels of a box (left, top, right, bottom) are transparent."""
        high = np.asarray(self.high.crop(box))
        if self.low is None:
            return high == self.colour
        samples = high.astype(np.int32) * 256 + np.asarray(self.low.crop(box))
        return (samples == np.array(self.colour, np.int32)).all(axis=2)


def without_side_chunks(content: bytes) -> bytes | None:
    """A PNG file without comments, profiles, EXIF and all else that its pixels do without; None where there is none."""
    if not content.startswith(_SIGNATURE):
        return None
    kept, start = [_SIGNATURE], len(_SIGNATURE)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        if content[start + 4 : start + 8] in _ESSENTIAL:
            kept.append(content[start:end])
        start = end
    essence = b"".join(kept)
    return essence if len(essence) < len(content) else None
