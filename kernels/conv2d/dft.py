"""Convolution as a discrete Fourier transform written in matrix products.

The transform covers the whole image (see `kernels.conv2d.transforms` for the mathematics), so it needs 4 to 15 times
fewer multiplications than the sum over taps, and all of them are in matrix products, which is where a CPU is fast.
Nothing is transposed if the batch is the minor axis, so that is the native layout.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from kernels.conv2d import choice
from kernels.conv2d.reference import Padding
from kernels.conv2d.transforms import Transforms, transforms


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k k c_in c_out"], *, stride: int, padding: Padding, layout: str
) -> Float[Array, "..."]:
    """As `reference`, for stride 1, odd square filters, no negative padding, float32 or float64."""
    refuse_unless_served("dft", x, w, stride, padding)
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    height, width, c_in, _ = x.shape
    plan = choice.dft_plan((height, width), c_in, w.shape[3])
    y = convolve(transforms((height, width), w.shape[0], padding, plan), x, w)
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


def refuse_unless_served(name: str, x: Array, w: Array, stride: int, padding: Padding) -> None:
    """Raises NotImplementedError for what the matrix-product implementations do not do."""
    k_h, k_w = w.shape[:2]
    if stride != 1:
        raise NotImplementedError(f"{name} convolves with stride 1 only, not {stride}")
    if k_h != k_w or k_h % 2 == 0:
        raise NotImplementedError(f"{name} takes odd square filters only, not {k_h}x{k_w}")
    if x.dtype not in (jnp.float32, jnp.float64):
        raise NotImplementedError(f"{name} computes in float32 and float64 only, not {x.dtype}")
    if min(*padding[0], *padding[1]) < 0:
        raise NotImplementedError(f"{name} takes no negative padding, not {padding}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(
    maps: Transforms, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> Float[Array, "H_out W_out c_out N"]:
    """The convolution that `maps` were made for."""
    return _forward(maps, x, w)[0]


def _forward(maps: Transforms, x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    x_points = _stacked(maps.image.apply(x), maps)
    w_points = _blocks(maps.kernel.apply(w), maps)
    y_points = _contract("pio,pin->pon", w_points, x_points)
    return maps.output.apply_transpose(_unstacked(y_points, maps)), (x_points, w_points)


def _backward(maps: Transforms, points: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x_points, w_points = points
    dy_points = _stacked(maps.output.apply(dy), maps)
    dx_points = _contract("pio,pon->pin", w_points, dy_points)
    dw_points = _contract("pin,pon->pio", x_points, dy_points)
    return (
        maps.image.apply_transpose(_unstacked(dx_points, maps)),
        maps.kernel.apply_transpose(_unblocked(dw_points, maps)),
    )


convolve.defvjp(_forward, _backward)


# Points are [points, c, n]. Without Gauss's trick they come in pairs (re, im), and a complex product is the real one
# (re, im)·[[w_re, w_im], [−w_im, w_re]] of twice the channels: images are stacked to it, filters made blocks.


def _stacked(points: Float[Array, "P c n"], maps: Transforms) -> Array:
    return points if maps.plan.gauss else points.reshape(-1, 2 * points.shape[1], points.shape[2])


def _unstacked(points: Array, maps: Transforms) -> Float[Array, "P c n"]:
    return points if maps.plan.gauss else points.reshape(-1, points.shape[1] // 2, points.shape[2])


def _blocks(points: Float[Array, "P c_in c_out"], maps: Transforms) -> Array:
    if maps.plan.gauss:
        return points
    _, c_in, c_out = points.shape
    re, im = (points[part::2, None, :, None] for part in (0, 1))  # [frequencies, 1, c_in, 1, c_out]
    row = np.arange(2).reshape(1, 2, 1, 1, 1)
    column = np.arange(2).reshape(1, 1, 1, 2, 1)
    # A selection, which XLA fuses into one pass; it copies a concatenation slowly.
    return jnp.where(row == column, re, jnp.where(row == 0, im, -im)).reshape(-1, 2 * c_in, 2 * c_out)


def _unblocked(blocks: Array, maps: Transforms) -> Float[Array, "P c_in c_out"]:
    if maps.plan.gauss:
        return blocks
    c_in, c_out = blocks.shape[1] // 2, blocks.shape[2] // 2
    re = blocks[:, :c_in, :c_out] + blocks[:, c_in:, c_out:]
    im = blocks[:, :c_in, c_out:] - blocks[:, c_in:, :c_out]
    return jnp.stack([re, im], axis=1).reshape(-1, c_in, c_out)


def _contract(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)
