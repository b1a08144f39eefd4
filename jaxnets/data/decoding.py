"""Encoded pictures as a network takes them, whatever their format, size and colours: all that is asked of Pillow."""

import contextlib
import io
import threading
from collections.abc import Iterator
from functools import cache
from typing import IO, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxnets.data import colours, png
from jaxnets.data.dataset import DataError
from jaxnets.naming import quoted

# Pillow reads some forty formats. One of them starts a program (PostScript, which may be named .png), and each is code
# that a file from the internet reaches: people keep pictures in these.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")

MEMORY = 3 * 2**29  # bytes that the pictures decoded at one moment may take together
# Four for the picture itself and four for each of two possible conversions; or as many as its decoder takes.
_BYTES_PER_PIXEL = 12
_BYTES_PER_PIXEL_OF = {"AVIF": 20, "JPEG2000": 20, "WEBP": 20}

_PILLOW_MODE = {1: "L", 3: "RGB"}  # by the number of channels

# By EXIF's orientation: the transposition that makes the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def endings() -> frozenset[str]:
    """The endings of the names of files in these formats, in small letters, as in ".jpg"."""
    known = formats()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in known)


def decode(
    content: bytes, image_shape: tuple[int | None, int | None, int], *, where: str
) -> UInt8[np.ndarray, "H W C"]:
    """A picture upright (as its EXIF says), scaled to the shape, grey or RGB, white where it is transparent.

    A picture of another ratio of height and width is squashed or stretched, so that nothing of it is cut off. The
    filter is bilinear; where it makes a picture smaller, it averages over all pixels that fall into one (antialiasing).
    Of an animation the first frame is taken. A picture of the right shape and kind keeps its very pixels.

    Args:
      content: the whole file, in one of `FORMATS`.
      image_shape: (H, W, C) in pixels, C being 1 or 3; where H and W are None, a picture keeps its own.
      where: the file's name, for the messages.

    Raises:
      DataError: where the content is no picture, is damaged, has colours without a meaning here, or would take more
        than `MEMORY`.
    """
    if not content:
        raise DataError(f"{where} is empty: it holds no picture.")
    try:
        return _decode(content, image_shape, where)
    except DataError:
        essence = png.without_side_chunks(content)
        if essence is None:
            raise
        with contextlib.suppress(DataError):  # Pillow refuses pixels for a fault in the comments beside them
            return _decode(essence, image_shape, where)
        raise


def _decode(content: bytes, image_shape: tuple[int | None, int | None, int], where: str) -> UInt8[np.ndarray, "H W C"]:
    height, width, channels = image_shape
    with opened(io.BytesIO(content), where) as picture, _room_for(picture):
        image = colours.flatten(picture, _PILLOW_MODE[channels], content, where)
        method = _UPRIGHT.get(_orientation(picture))
        if method is not None:
            image = image.transpose(method)
        if height is not None and width is not None and image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(image.height, image.width, channels)


@contextlib.contextmanager
def opened(file: io.BufferedIOBase, where: str) -> Iterator[Image.Image]:
    """A picture whose header has been read. Whatever Pillow raises within the block becomes one sentence.

    Raises:
      DataError: as `decode`.
      OSError: where the operating system does not let the file be read.
    """
    try:
        with Image.open(cast(IO[bytes], file), formats=formats()) as picture:
            limit = MEMORY // _bytes_per_pixel(picture)
            if picture.width * picture.height > limit:
                raise DataError(
                    f"{where} claims {picture.width}×{picture.height} pixels, of which at most {limit:,} fit into the "
                    "memory that pictures are decoded in; make it smaller."
                )
            yield picture
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is no picture in any known format.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise DataError(f"{where} claims more pixels than fit into the memory; make it smaller.") from error
    except Exception as error:  # each format's decoder has its own for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        words = quoted(str(error) or type(error).__name__, 100).rstrip(".")
        raise DataError(f"{where} is damaged, or not all of it is there ({words}).") from error


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # a block of EXIF that is damaged, in one way or another, says nothing about the pixels
        return 1


def _bytes_per_pixel(picture: Image.Image) -> int:
    return _BYTES_PER_PIXEL_OF.get(picture.format or "", _BYTES_PER_PIXEL)


class _Room:
    """Memory that threads share: each takes a part, and waits until others have given back enough."""

    def __init__(self, total: int) -> None:
        self._free, self._changed = total, threading.Condition()

    @contextlib.contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_ROOM = _Room(MEMORY)


def _room_for(picture: Image.Image) -> contextlib.AbstractContextManager[None]:
    return _ROOM.taken(picture.width * picture.height * _bytes_per_pixel(picture))
