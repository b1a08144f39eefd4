"""The user's pictures as a network takes them, in any known format, size and colours."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from experiments.run.terminal import UserError, as_user_error
from jaxnets.data import DataError
from jaxnets.data.decoding import decode
from jaxnets.data.pictures import check_file, read_file
from jaxnets.naming import quoted


class Encoded(NamedTuple):
    """A picture of a set in one file, as a JPEG or in another known format; `where` says which, for messages."""

    content: bytes
    where: str

    def __str__(self) -> str:
        return self.where


def check(path: Path) -> None:
    """Opens a picture without decoding it, which takes next to no time.

    Raises:
      UserError: as `read`, except for damage further inside.
    """
    if path.is_dir():
        raise UserError(f"{quoted(path)} is a folder: name the pictures in it, as in {quoted(path)}/*")
    with as_user_error(DataError):
        check_file(path)


def read(source: Path | Encoded, image_shape: tuple[int, int, int]) -> UInt8[np.ndarray, "H W C"]:
    """A picture, a file's or one of a set, as `jaxnets.data.decoding.decode` has it: upright, scaled, grey or RGB.

    Raises:
      UserError: where there is none that can be read, in one sentence that names it.
    """
    if image_shape[2] not in (1, 3):
        raise UserError(f"the network takes images of {image_shape[2]} channels: pictures have 1 or 3")
    with as_user_error(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about harmless oddities in a file
        content = source.content if isinstance(source, Encoded) else read_file(source)
        return decode(content, image_shape, where=quoted(source))


def look_inverted(images: UInt8[np.ndarray, "N H W C"]) -> Bool[np.ndarray, "N"]:
    """Whether the border, an eighth of a side wide, is brighter than the middle."""
    height, width = images.shape[1:3]
    is_border = np.ones((height, width), bool)
    is_border[height // 8 or 1 : -(height // 8 or 1), width // 8 or 1 : -(width // 8 or 1)] = False
    grey = images.mean(axis=3)
    return grey[:, is_border].mean(axis=1) > grey[:, ~is_border].mean(axis=1)


def look_pale(images: UInt8[np.ndarray, "N H W C"]) -> Bool[np.ndarray, "N"]:
    """Whether a picture uses less than half of the range from black to white, a hundredth of it aside."""
    low, high = _range(images)
    return high - low < 128


def stretched(images: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N H W C"]:
    """Pictures with the darkest hundredth made black and the lightest white; a picture of one shade stays as it is."""
    low, high = (each[:, None, None, None] for each in _range(images))
    length = np.where(high > low, high - low, 255)
    start = np.where(high > low, low, 0)
    return np.clip(np.rint((images - start) / length * 255), 0, 255).astype(np.uint8)


def _range(images: UInt8[np.ndarray, "N H W C"]) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """The shades below and above which a hundredth of a picture's numbers lie."""
    low, high = np.percentile(images, (1, 99), axis=(1, 2, 3))
    return low, high
