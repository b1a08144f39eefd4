"""The colours of a picture, in whatever mode Pillow has them, as grey or RGB of 8 bits over white."""

import numpy as np
from jaxtyping import Bool
from PIL import Image

from jaxnets.data import png
from jaxnets.data.dataset import DataError

_BAND_PIXELS = 2**20  # converted at once, so that the steps between take little memory
_PHOTOMETRIC, _BITS_PER_SAMPLE = 262, 258  # tags of TIFF


def flatten(picture: Image.Image, mode: str, content: bytes, where: str) -> Image.Image:
    """The picture in mode "L" or "RGB", white where it is transparent.

    Args:
      picture: opened, and not yet loaded.
      mode: "L" or "RGB".
      content: the file that it was opened from.
      where: the file's name, for the messages.

    Raises:
      DataError: where its colours have no meaning here.
      Exception: whatever Pillow raises where the file is damaged.
    """
    tiles = getattr(picture, "tile", [])
    rawmode = str(tiles[0][3]) if tiles else ""  # how samples are stored, which loading forgets
    picture.load()
    hidden = png.Transparency.of(picture, rawmode, content)
    if picture.mode == mode and hidden is None and not picture.has_transparency_data:
        return picture
    flat = Image.new(mode, picture.size)
    rows = max(1, _BAND_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        is_hidden = None if hidden is None else hidden.within(box)
        flat.paste(_flatten_band(picture, box, mode, is_hidden, where), (0, top))
    return flat


def _flatten_band(
    picture: Image.Image,
    box: tuple[int, int, int, int],
    mode: str,
    is_hidden: Bool[np.ndarray, "H W"] | None,
    where: str,
) -> Image.Image:
    band = picture.crop(box)
    if band.mode[0] in "IF":
        band = _eight_bits(band, picture, where)
    if is_hidden is not None:
        band = band.convert("RGBA")
        band.putalpha(Image.fromarray(np.where(is_hidden, np.uint8(0), np.uint8(255))))
    if band.mode == "La":  # Pillow converts it to this one only
        band = band.convert("LA")
    if band.has_transparency_data:
        band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band.convert("RGBA"))
    try:
        return band.convert(mode)
    except ValueError as error:
        raise DataError(f"{where} has colours that cannot be converted ({band.mode}); save it as RGB.") from error


def _eight_bits(band: Image.Image, picture: Image.Image, where: str) -> Image.Image:
    """A part of a grey picture of up to 16 bits a pixel, in 8; Pillow's own conversion would cut off all above 255."""
    values = np.asarray(band)
    if band.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise DataError(
            f"{where} has pixels that are negative, fractions or of 32 bits, and nothing says which value is white; "
            "save it with 8 bits."
        )
    tags = getattr(picture, "tag_v2", {})
    white = 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    grey = ((values.astype(np.int64) * 255 + white // 2) // white).astype(np.uint8)
    # Pillow turns a TIFF in which 0 is white upside down where it has 8 bits or fewer, and leaves it so with 16.
    is_white_zero = tags.get(_PHOTOMETRIC) == 0 and band.mode.startswith("I;16")
    return Image.fromarray(255 - grey if is_white_zero else grey)
