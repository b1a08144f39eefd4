"""One's own pictures as a network takes them, whatever their format, size and colours."""

import contextlib
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from experiments.run.terminal import UserError, as_user_error


def check(path: Path) -> None:
    """Opens a picture without decoding it, which takes next to no time.

    Raises:
      UserError: as `read`, except for what is damaged further inside.
    """
    with _opened(path):
        pass


def read(path: Path, image_shape: tuple[int, int, int]) -> UInt8[np.ndarray, "H W C"]:
    """A picture as `jaxnets.data.pictures.decode` has it: upright, scaled to the shape, grey or RGB.

    Raises:
      UserError: where there is none that can be read, in one sentence that names the file.
      OSError: where the operating system does not let it be read.
    """
    from jaxnets.data.dataset import DataError  # imports JAX, which `check` does without
    from jaxnets.data.pictures import decode

    if image_shape[2] not in (1, 3):
        raise UserError(f"the network takes images of {image_shape[2]} channels: pictures have 1 or 3")
    with as_user_error(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about what is odd in a file, and harmless
        return decode(path.read_bytes(), image_shape, where=str(path))


def look_inverted(images: UInt8[np.ndarray, "N H W C"]) -> Bool[np.ndarray, "N"]:
    """Whether the border, an eighth of a side wide, is brighter than what it surrounds."""
    height, width = images.shape[1:3]
    is_border = np.ones((height, width), bool)
    is_border[height // 8 or 1 : -(height // 8 or 1), width // 8 or 1 : -(width // 8 or 1)] = False
    grey = images.mean(axis=3)
    return grey[:, is_border].mean(axis=1) > grey[:, ~is_border].mean(axis=1)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture; what goes wrong with it is said in one sentence."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the pictures in it, as in {path}/*")
    try:
        if not path.stat().st_size:
            raise UserError(f"{path} is empty: it holds no picture")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what is odd in a file, and harmless
            with Image.open(path) as image:
                yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no picture in any known format") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(
            f"{path} claims more than {limit:,} pixels, as what is meant to fill the memory does"
        ) from error
    except Exception as error:  # each format's decoder has its own for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        words = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" …")
        raise UserError(f"{path} is damaged, or not all of it is there ({words})") from error
