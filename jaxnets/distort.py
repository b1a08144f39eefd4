"""Random distortion of drawings on the device: affine and elastic maps, strokes of other width, blur, occlusion.

For light strokes on a dark ground, as in MNIST and the glyphs. Functions of one image are pure and take
floats, so that they compose; `distort` maps them over a batch, with a key for each image.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from jaxnets.augment import adjust_contrast
from jaxnets.domains import check
from jaxnets.explicit_axes import between_auto_axes, of_rows

_RADIUS = 2  # pixels of the blur's kernel on each side


@dataclasses.dataclass(frozen=True)
class Distortion:
    """The strength of each change; zeros change nothing. Signed amounts are uniform between −x and x.

    Attributes:
      rotation: the largest turn, in radians.
      shear: the largest shift of a row, as a share of its distance to the middle.
      scale: the largest |log| of a factor on the size, one for the height and one for the width.
      translation: the largest shift, as a share of the side.
      stroke: how far strokes become thicker or thinner, by a pixel on each side at 1.
      blur: the largest standard deviation of a Gaussian, in pixels.
      contrast: factors are uniform in 1 ± this number.
      occlusion: the probability that a rectangle is covered, with the grey of one shade.
      largest_occlusion: its longest side, as a share of the image's.
      elastic: the largest deviation of a pixel's random displacement, as a share of the side; 0 for none, which is the
        default, for 0.03 a visible one.
      smoothness: of that displacement, the standard deviation of the Gaussian that smooths it, as a share of the side.

    Raises:
      ValueError: for a number outside its domain.
    """

    rotation: float | int = 0.15
    shear: float | int = 0.25
    scale: float | int = 0.2
    translation: float | int = 0.08
    stroke: float | int = 0.8
    blur: float | int = 0.8
    contrast: float | int = 0.3
    occlusion: float | int = 0.3
    largest_occlusion: float | int = 0.35
    elastic: float | int = 0.0
    smoothness: float | int = 0.12

    def __post_init__(self) -> None:
        check("rotation", self.rotation, "[0, π]", unit="radians")
        for name in ("shear", "scale", "blur"):
            check(name, getattr(self, name), "[0, ∞)")
        for name in ("translation", "stroke", "contrast", "occlusion", "largest_occlusion", "elastic"):
            check(name, getattr(self, name), "[0, 1]")
        check("smoothness", self.smoothness, "(0, 1]")


def distort(
    keys: Key[Array, "N"], images: UInt8[Array | np.ndarray, "N H W C"], distortion: Distortion | None = None
) -> UInt8[Array, "N H W C"]:
    """Changes each image as its key determines, independently of the rest of the batch.

    Args:
      keys: [N], for example of `jax.random.split(key, N)`.
      images: [N, H, W, C], uint8.
      distortion: the strength of the changes; None for the defaults.
    """
    how = Distortion() if distortion is None else distortion

    def one(key: Key[Array, ""], image: UInt8[Array, "H W C"]) -> UInt8[Array, "H W C"]:
        numbers = jax.random.uniform(key, (15,))
        signed = 2 * numbers - 1
        floats = image.astype(jnp.float32) / 255
        matrix = affine_matrix(how.rotation * signed[0], how.shear * signed[1], how.scale * signed[2:4])
        floats = affine(floats, matrix, how.translation * signed[4:6])
        if how.elastic > 0:
            amount_key, field_key = jax.random.split(jax.random.fold_in(key, 1))
            field = smooth_field(field_key, (image.shape[0], image.shape[1]), how.smoothness)
            floats = elastic(floats, how.elastic * jax.random.uniform(amount_key) * field)
        floats = stroke(floats, how.stroke * signed[6])
        floats = blur(floats, how.blur * numbers[7])
        floats = adjust_contrast(floats, 1 + how.contrast * signed[8])
        size = jnp.where(numbers[9] < how.occlusion, how.largest_occlusion * numbers[10:12], 0)
        floats = occlude(floats, numbers[12:14] * (1 - size), size, numbers[14])
        return jnp.round(floats * 255).astype(jnp.uint8)

    changed: UInt8[Array, "N H W C"] = between_auto_axes(
        jax.vmap(one), keys, jnp.asarray(images), out=lambda: of_rows(images)
    )
    return changed


def affine_matrix(
    rotation: Float[Array, ""], shear: Float[Array, ""], log_scale: Float[Array, "2"]
) -> Float[Array, "2 2"]:
    """Takes offsets (vertical, horizontal) in the result to offsets in the image: scale⁻¹ · rotation · shear."""
    cos, sin = jnp.cos(rotation), jnp.sin(rotation)
    turned = jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])
    sheared = jnp.eye(2, dtype=turned.dtype).at[1, 0].set(shear)
    return (turned @ sheared) * jnp.exp(-log_scale)[:, None]


def affine(
    image: Float[Array, "H W C"], matrix: Float[Array, "2 2"], translation: Float[Array, "2"]
) -> Float[Array, "H W C"]:
    """An affine map about the middle, bilinear, black beyond the edges; `translation` in shares of the sides.

    The pixel at offset o from the middle takes the value at offset matrix·(o − translation) in the image.
    """
    height, width, _ = image.shape
    sides = jnp.array([height, width], image.dtype)
    middle = (sides - 1) / 2
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    offsets = jnp.stack([rows, columns]).reshape(2, -1).astype(image.dtype) - (middle + translation * sides)[:, None]
    return _at(image, matrix @ offsets + middle[:, None])


def smooth_field(key: Key[Array, ""], sides: tuple[int, int], smoothness: float | int) -> Float[Array, "2 H W"]:
    """Normal numbers of variance 1, smoothed by a Gaussian of the deviation `smoothness`·side along each side.

    Towards the edges the Gaussian is cut off, and scaled so that the variance is 1 there too. Simard, Steinkraus,
    Platt, Best practices for convolutional neural networks applied to visual document analysis, 2003, section 2, where
    the numbers are uniform, and the field is scaled as a whole.
    """
    noise = jax.random.normal(key, (2, *sides))
    down, across = (_smoothing(side, smoothness * side) for side in sides)
    return jnp.einsum("hi,dij,wj->dhw", down, noise, across, precision=jax.lax.Precision.HIGHEST)


def _smoothing(side: int, deviation: float) -> Float[np.ndarray, "S S"]:
    """Gaussian weights; each row has the length 1."""
    steps = np.arange(side)
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / deviation) ** 2)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def elastic(image: Float[Array, "H W C"], displacement: Float[Array, "2 H W"]) -> Float[Array, "H W C"]:
    """Each pixel takes the value that is displaced by (vertical, horizontal) shares of the sides, as `affine` does."""
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    sides = jnp.array([height, width], image.dtype)
    places = jnp.stack([rows, columns]).astype(image.dtype) + sides[:, None, None] * displacement
    return _at(image, places.reshape(2, -1))


def _at(image: Float[Array, "H W C"], places: Float[Array, "2 P"]) -> Float[Array, "H W C"]:
    """An image of the values at these places, (row, column), in its order: bilinear, black beyond the edges."""
    height, width, _ = image.shape
    low = jnp.floor(places)
    share = places - low
    result = jnp.zeros((height * width, image.shape[2]), image.dtype)
    for down in (0, 1):
        for right in (0, 1):
            row, column = low[0] + down, low[1] + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            weight = (share[0] if down else 1 - share[0]) * (share[1] if right else 1 - share[1])
            result += jnp.where(inside, weight, 0)[:, None] * image.reshape(height * width, -1)[index]
    return result.reshape(image.shape)


def stroke(image: Float[Array, "H W C"], amount: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Strokes thicker, for amounts above 0, or thinner: at 1 the 3×3 maximum, at −1 the minimum, between a mixture."""
    highest = lowest = image
    for axis in (0, 1):
        highest = jnp.maximum(highest, jnp.maximum(_moved(highest, 1, axis), _moved(highest, -1, axis)))
        lowest = jnp.minimum(lowest, jnp.minimum(_moved(lowest, 1, axis), _moved(lowest, -1, axis)))
    return image + jnp.maximum(amount, 0) * (highest - image) - jnp.maximum(-amount, 0) * (image - lowest)


def blur(image: Float[Array, "H W C"], deviation: Float[Array, ""]) -> Float[Array, "H W C"]:
    """A Gaussian of this standard deviation in pixels, over 5×5 of them; edges are repeated."""
    steps = jnp.arange(-_RADIUS, _RADIUS + 1, dtype=image.dtype)
    weights = jax.nn.softmax(-0.5 * (steps / jnp.maximum(deviation, 1e-3)) ** 2)
    for axis in (0, 1):
        image = jnp.stack([weights[i] * _moved(image, i - _RADIUS, axis) for i in range(len(weights))]).sum(axis=0)
    return image


def occlude(
    image: Float[Array, "H W C"], corner: Float[Array, "2"], size: Float[Array, "2"], shade: Float[Array, ""]
) -> Float[Array, "H W C"]:
    """A rectangle of one shade; its corner and size are (vertical, horizontal), as shares of the image."""
    covered = []
    for axis, start, length in zip((0, 1), corner, size, strict=True):
        centres = (jnp.arange(image.shape[axis], dtype=image.dtype) + 0.5) / image.shape[axis]
        covered.append((centres >= start) & (centres < start + length))
    return jnp.where((covered[0][:, None] & covered[1][None, :])[:, :, None], shade, image)


def _moved(image: Float[Array, "H W C"], by: int, axis: int) -> Float[Array, "H W C"]:
    """The image moved by some pixels; its edge is repeated."""
    length = image.shape[axis]
    return jnp.take(image, np.clip(np.arange(length) - by, 0, length - 1), axis=axis)
