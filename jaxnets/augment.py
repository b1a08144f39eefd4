"""Random augmentation of images on the device: mirroring, cropping, changes of colour.

Functions of one image are pure and take floats, so that they compose; `augment` maps them over a batch, with a key for
each image.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxnets.domains import check
from jaxnets.explicit_axes import between_auto_axes, of_rows

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, to torchvision's four digits


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The strength of each change. Zeros, and 1 for `smallest_area` and `widest_ratio`, change nothing.

    Attributes:
      flip: the probability of mirroring left and right.
      smallest_area: the smallest area of a crop as a share of the image, in (0, 1].
      widest_ratio: the largest ratio of relative width to relative height of a crop, or of height to width, 1 or more.
      brightness, contrast, saturation: each factor is drawn uniformly from 1 ± this number, in [0, 1].

    Raises:
      ValueError: for a number outside its domain.
    """

    flip: float | int = 0.5
    smallest_area: float | int = 0.8
    widest_ratio: float | int = 4 / 3
    brightness: float | int = 0.2
    contrast: float | int = 0.2
    saturation: float | int = 0.2

    def __post_init__(self) -> None:
        for name in ("flip", "brightness", "contrast", "saturation"):
            check(name, getattr(self, name), "[0, 1]")
        check("smallest_area", self.smallest_area, "(0, 1]")
        check("widest_ratio", self.widest_ratio, "[1, ∞)")


def augment(
    keys: Key[Array, "N"], images: UInt8[Array | np.ndarray, "N H W C"], augmentation: Augmentation | None = None
) -> UInt8[Array, "N H W C"]:
    """Changes each image as its key determines, independently of the rest of the batch.

    Args:
      keys: [N], for example of `jax.random.split(key, N)`.
      images: [N, H, W, C], uint8.
      augmentation: the strength of the changes; None for the defaults.
    """
    how = Augmentation() if augmentation is None else augmentation

    def one(key: Key[Array, ""], image: UInt8[Array, "H W C"]) -> UInt8[Array, "H W C"]:
        numbers = jax.random.uniform(key, (8,))
        floats = image.astype(jnp.float32) / 255
        floats = jnp.where(numbers[0] < how.flip, flip(floats), floats)
        floats = crop_and_resize(floats, *choose_crop(numbers[1:5], how.smallest_area, how.widest_ratio))
        for adjust, spread, number in (
            (adjust_brightness, how.brightness, numbers[5]),
            (adjust_contrast, how.contrast, numbers[6]),
            (adjust_saturation, how.saturation, numbers[7]),
        ):
            floats = adjust(floats, 1 + spread * (2 * number - 1))
        return jnp.round(floats * 255).astype(jnp.uint8)

    changed: UInt8[Array, "N H W C"] = between_auto_axes(
        jax.vmap(one), keys, jnp.asarray(images), out=lambda: of_rows(images)
    )
    return changed


def flip(image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """Exchanges left and right."""
    return image[:, ::-1]


def choose_crop(
    numbers: Float[Array, "4"], smallest_area: float | int, widest_ratio: float | int
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """The first corner and the size of a crop, both (vertical, horizontal) as shares of the image.

    As in torchvision's `RandomResizedCrop`, the area is uniform from the smallest to 1, and the ratio is log-uniform.
    Unlike there, a side longer than the image is cut to its length instead of drawing again. `numbers` are uniform in
    [0, 1).
    """
    area = smallest_area + (1 - smallest_area) * numbers[0]
    half_log_ratio = (numbers[1] - 0.5) * math.log(widest_ratio)
    size = jnp.minimum(jnp.sqrt(area) * jnp.exp(jnp.stack([-half_log_ratio, half_log_ratio])), 1)
    return numbers[2:] * (1 - size), size


def crop_and_resize(
    image: Float[Array, "H W C"], corner: Float[Array, "2"], size: Float[Array, "2"]
) -> Float[Array, "H W C"]:
    """A part of the image, resized to the size of the image bilinearly; `corner` and `size` as of `choose_crop`.

    Corner 0 and size 1 give the image itself. Pixels at the edge of the crop are blended with pixels outside it, as in
    Pillow's `resize(box=…)`; torchvision crops first and repeats the last pixel.
    """
    scale = 1 / size
    translation = -corner * jnp.array(image.shape[:2], image.dtype) * scale
    return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, translation, "linear", antialias=False)


def adjust_brightness(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Multiplies all values by the factor and clips them to [0, 1], as torchvision does."""
    return jnp.clip(image * factor, 0, 1)


def adjust_contrast(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Multiplies the distance of all values to the mean grey by the factor and clips to [0, 1], as torchvision does."""
    return _blend(image, _grey(image).mean(), factor)


def adjust_saturation(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Multiplies the distance of values to the grey of their pixel by the factor; clips to [0, 1], as torchvision."""
    return _blend(image, _grey(image), factor)


def _blend(image: Float[Array, "H W C"], other: Float[Array, "..."], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    return jnp.clip(factor * image + (1 - factor) * jnp.broadcast_to(other, image.shape), 0, 1)


def _grey(image: Float[Array, "H W C"]) -> Float[Array, "H W 1"]:
    if image.shape[2] == 1:
        return image
    return (image * jnp.array(_LUMA, image.dtype)[None, None]).sum(axis=2, keepdims=True)
