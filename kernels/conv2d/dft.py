"""Convolution as a discrete Fourier transform written in matrix products.

The transform covers the whole image (see `kernels.conv2d.transforms` for the mathematics), so it needs 4 to 15 times
fewer multiplications than the sum over taps, and all of them are in matrix products, which is where a CPU is fast.
Nothing is transposed if the batch is the minor axis, so that is the native layout.
"""

import functools

import jax
import jax.numpy as jnp
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
    return forward(maps, x, w)[0]


def forward(maps: Transforms, x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    """The convolution, and what `backward` needs."""
    x_points = _stacked(maps.image.apply(x), maps)
    y_points = _filtered(x_points, w, maps)
    return maps.output.apply_transpose(_unstacked(y_points, maps)), (x_points, w)


def backward(maps: Transforms, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """dx and dw."""
    x_points, w = residuals
    # A dependency that XLA cannot remove as it does a barrier; or it transforms the filters early and holds them.
    w = w * jnp.where(jnp.isnan(dy[0, 0, 0, 0]), jnp.nan, 1).astype(w.dtype)
    dy_points = _stacked(maps.output.apply(dy), maps)
    dx_points = _filtered(dy_points, w, maps, transpose=True)
    dw_points = _einsum("pin,pon->pio", x_points, dy_points)
    return (
        maps.image.apply_transpose(_unstacked(dx_points, maps)),
        maps.kernel.apply_transpose(_points_of_filters(dw_points, maps)),
    )


convolve.defvjp(forward, backward)


def _filtered(points: Float[Array, "P c n"], w: Array, maps: Transforms, *, transpose: bool = False) -> Array:
    """Σ_i w[i, o]·points[i] at every point, or with `transpose` Σ_o w[i, o]·points[o].

    The filters are transformed anew for either, which costs less than to keep them, or to multiply by them in the
    order that does not suit: XLA:CPU has one routine for a·b and another for aᵀ·b.
    """
    plain = choice.is_plain(min(w.shape[2:]) * (1 if maps.plan.gauss else 2))
    swap = plain != transpose
    filters = _matrices(maps.kernel.apply(w.swapaxes(2, 3) if swap else w), maps, swapped=swap)
    return _einsum("pab,pbn->pan" if plain else "pba,pbn->pan", filters, points)


# Points are [points, c, n]. Without Gauss's trick those of images come in pairs (re, im), which count as twice the
# channels, and those of filters in fours, the 2×2 blocks that multiply them.


def _stacked(points: Float[Array, "P c n"], maps: Transforms) -> Array:
    return points if maps.plan.gauss else points.reshape(-1, 2 * points.shape[1], points.shape[2])


def _unstacked(points: Array, maps: Transforms) -> Float[Array, "P c n"]:
    return points if maps.plan.gauss else points.reshape(-1, points.shape[1] // 2, points.shape[2])


def _matrices(points: Float[Array, "P a b"], maps: Transforms, *, swapped: bool) -> Array:
    """What multiplies the points of images: [points, in, out], or [points, out, in] of `swapped` filters."""
    if maps.plan.gauss:
        return points
    a, b = points.shape[1:]
    order = (0, 2, 3, 1, 4) if swapped else (0, 1, 3, 2, 4)
    return points.reshape(-1, 2, 2, a, b).transpose(order).reshape(-1, 2 * a, 2 * b)


def _points_of_filters(matrices: Float[Array, "P i o"], maps: Transforms) -> Array:
    """The way back of `_matrices`, unswapped."""
    if maps.plan.gauss:
        return matrices
    i, o = matrices.shape[1] // 2, matrices.shape[2] // 2
    return matrices.reshape(-1, 2, i, 2, o).transpose(0, 1, 3, 2, 4).reshape(-1, i, o)


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)
