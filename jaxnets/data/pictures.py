"""Pictures that are still encoded, and their content as a network takes it, whatever its format, size and colours."""

import dataclasses
import io
import textwrap
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxnets.data.dataset import DataError

_PILLOW_MODE = {1: "L", 3: "RGB"}  # by the number of channels


class Encoded(NamedTuple):
    """A picture as it is stored, in any format that Pillow knows, and its label."""

    content: bytes
    label: int


class Pictures(Protocol):
    """N labelled pictures that are still encoded, wherever they are stored, each read when it is asked for."""

    @property
    def place(self) -> Path:
        """The folder that they are stored in."""

    @property
    def key(self) -> str:
        """Sixteen digits that change with what is stored."""

    @property
    def channels(self) -> int:
        """What is made of each: 1 for grey, 3 for RGB."""

    @property
    def labels(self) -> Int32[np.ndarray, " N"]:
        """All of them; reading them may take as long as reading all pictures."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """How a picture is called within its set."""

    def where(self, index: int) -> str:
        """The same for one who does not know which set is meant."""

    def __getitem__(self, index: int) -> Encoded:
        """One of them, for threads too.

        Raises:
          DataError: if it is not there, or its label is none.
        """


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
    channels: ClassVar[int] = 3

    @property
    def place(self) -> Path:
        return self.root

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def where(self, index: int) -> str:
        return str(self.root / self.names[index])

    def __getitem__(self, index: int) -> Encoded:
        """The content of a file, and its label.

        Raises:
          DataError: if the operating system does not give it.
        """
        try:
            return Encoded((self.root / self.names[index]).read_bytes(), int(self.labels[index]))
        except OSError as error:
            raise DataError(f"{self.where(index)} cannot be read ({error.strerror or error}).") from error


def decode(
    content: bytes, image_shape: tuple[int | None, int | None, int], *, where: str
) -> UInt8[np.ndarray, "H W C"]:
    """A picture upright (as its EXIF says), scaled to the shape, grey or RGB, white where it is transparent.

    It is squashed or stretched where its height and width are in another ratio than the shape's, so that nothing of it
    is cut off; the filter is bilinear, over all pixels that fall into one where the picture is made smaller
    (antialiased). Of an animation it is the first frame. A picture of the right shape and kind keeps its very pixels.

    Args:
      content: the whole file.
      image_shape: (H, W, C), C being 1 or 3; where H and W are None, a picture keeps its own.
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
            if height is not None and width is not None and image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(image.height, image.width, channels)
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
