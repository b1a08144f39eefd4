"""Random changes of images that leave what they show the same: mirrored, cropped, recoloured; on the device, by a key.

The functions on one image are pure and take floats, so that they compose, and `augment` maps them over a batch.
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
    """How strongly images are changed. Zeros, and `smallest_area` and `widest_ratio` of 1, change nothing.

    Attributes:
      flip: the probability of mirroring left and right.
      smallest_area: of a crop, as a share of the image's, in (0, 1]; the largest is 1.
      widest_ratio: the greatest ratio of a crop's relative width to its relative height, and of the latter to the
        former, at least 1.
      brightness, contrast, saturation: each factor is drawn uniformly from 1 ∓ this, in [0, 1].

    Raises:
      ValueError: for a number outside these.
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
    """Each image changed as its key determines, whatever shares its batch; None takes `Augmentation`'s defaults.

    The keys are as `jax.random.split(key, N)` gives them.
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
    """Left and right exchanged."""
    return image[:, ::-1]


def choose_crop(
    numbers: Float[Array, "4"], smallest_area: float | int, widest_ratio: float | int
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """A crop's first corner and its size, both (vertical, horizontal) in shares of the image, by numbers in [0, 1).

    As in torchvision's `RandomResizedCrop`, its area is uniform from the smallest to 1 and its ratio log-uniform; but
    where a side gets longer than the image's, it is as long as that, and nothing is drawn again.
    """
    area = smallest_area + (1 - smallest_area) * numbers[0]
    half_log_ratio = (numbers[1] - 0.5) * math.log(widest_ratio)
    size = jnp.minimum(jnp.sqrt(area) * jnp.exp(jnp.stack([-half_log_ratio, half_log_ratio])), 1)
    return numbers[2:] * (1 - size), size


def crop_and_resize(
    image: Float[Array, "H W C"], corner: Float[Array, "2"], size: Float[Array, "2"]
) -> Float[Array, "H W C"]:
    """A part of the image at the image's size, bilinear; `corner` and `size` as `choose_crop` gives them.

    The whole image (0, 1) is itself. Pixels at the crop's rim are blended with those beyond it, as Pillow's
    `resize(box=…)` does it; torchvision cuts first, and repeats the last pixel.
    """
    scale = 1 / size
    translation = -corner * jnp.array(image.shape[:2], image.dtype) * scale
    return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, translation, "linear", antialias=False)


def adjust_brightness(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """All values in [0, 1] times the factor, and clipped there; torchvision's."""
    return jnp.clip(image * factor, 0, 1)


def adjust_contrast(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """The distance of all values in [0, 1] to the mean grey times the factor, and clipped there; torchvision's."""
    return _blend(image, _grey(image).mean(), factor)


def adjust_saturation(image: Float[Array, "H W C"], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    """The distance of values in [0, 1] to their own pixel's grey times the factor, and clipped there; torchvision's."""
    return _blend(image, _grey(image), factor)


def _blend(image: Float[Array, "H W C"], other: Float[Array, "..."], factor: Float[Array, ""]) -> Float[Array, "H W C"]:
    return jnp.clip(factor * image + (1 - factor) * jnp.broadcast_to(other, image.shape), 0, 1)


def _grey(image: Float[Array, "H W C"]) -> Float[Array, "H W 1"]:
    if image.shape[2] == 1:
        return image
    return (image * jnp.array(_LUMA, image.dtype)[None, None]).sum(axis=2, keepdims=True)
