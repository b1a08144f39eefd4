"""Picture files, and their content as a network takes it, whatever its format, size and colours."""

import dataclasses
import io
import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxnets.data.dataset import DataError

_PILLOW_MODE = {1: "L", 3: "RGB"}  # by the number of channels


@dataclasses.dataclass(frozen=True, eq=False)
class PictureFiles:
    """Labelled picture files, in an order that does not depend on the file system.

    Attributes:
      root: the folder that the names are relative to.
      names: of the files, N of them.
      labels: [N] int32.
      key: sixteen digits that change with any file's name, size or time of modification, and with any label.
    """

    root: Path
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " N"]
    key: str

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes:
        """The content of a file.

        Raises:
          DataError: if the operating system does not give it.
        """
        try:
            return (self.root / self.names[index]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.root / self.names[index]} cannot be read ({error.strerror or error}).") from error


def decode(content: bytes, image_shape: tuple[int, int, int], *, where: str) -> UInt8[np.ndarray, "H W C"]:
    """A picture upright (as its EXIF says), scaled to the shape, grey or RGB, white where it is transparent.

    It is squashed or stretched where its height and width are in another ratio than the shape's, so that nothing of it
    is cut off; the filter is bilinear, over all pixels that fall into one where the picture is made smaller
    (antialiased). Of an animation it is the first frame. A picture of the right shape and kind keeps its very pixels.

    Args:
      content: the whole file.
      image_shape: (H, W, C), C being 1 or 3.
      where: the file's name, for the messages.

    Raises:
      DataError: where the content is no picture, or damaged, or in colours that nothing can be made of.
    """
    height, width, channels = image_shape
    if not content:
        raise DataError(f"{where} is empty: it holds no picture.")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            image = _eight_bits(ImageOps.exif_transpose(picture), where)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            try:
                image = image.convert(_PILLOW_MODE[channels])
            except ValueError as error:
                raise DataError(
                    f"{where} has colours that cannot be converted ({image.mode}); save it as RGB."
                ) from error
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(image_shape)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is no picture in any known format.") from error
    except Exception as error:  # each format's decoder has its own for a damaged file
        words = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" …").rstrip(".")
        raise DataError(f"{where} is damaged, or not all of it is there ({words}).") from error


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """The image itself, or one of 16 bits a pixel in 8; Pillow's own conversion would cut off all above 255."""
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise DataError(f"{where} has pixels of 32 bits, and nothing says which is black or white; save it with 8.")
    return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
