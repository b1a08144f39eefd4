"""Convolution as a discrete Fourier transform written in matrix products.

The transform covers the whole image (see `kernels.conv2d.transforms` for the mathematics). It needs 4 to 15 times fewer
multiplications than the sum over taps, and makes all of them in matrix products, at which a CPU is fast. With the batch
as the minor axis nothing is transposed, so that is the native layout.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.conv2d import choice
from kernels.conv2d.transforms import Transforms, transforms


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k_h k_w c_in c_out"], *, stride: int, padding: int, layout: str
) -> Float[Array, "..."]:
    """As `reference`, for stride 1, odd square filters, float32 or float64."""
    refuse_unless_served("dft", x, w, stride)
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    height, width, c_in, _ = x.shape
    form = choice.dft_form((height, width), c_in, w.shape[3])
    y = convolve(transforms((height, width), w.shape[0], padding, form), x, w)
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


def refuse_unless_served(name: str, x: Array, w: Array, stride: int) -> None:
    """Raises NotImplementedError for arguments that the implementations of matrix products do not serve."""
    k_h, k_w = w.shape[:2]
    if stride != 1:
        raise NotImplementedError(f"{name} convolves with stride 1 only, not {stride}")
    if k_h != k_w or k_h % 2 == 0:
        raise NotImplementedError(f"{name} takes odd square filters only, not {k_h}x{k_w}")
    if x.dtype not in (jnp.float32, jnp.float64):
        raise NotImplementedError(f"{name} computes in float32 and float64 only, not {x.dtype}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(
    maps: Transforms, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> Float[Array, "H_out W_out c_out N"]:
    """The convolution that `maps` were made for."""
    return forward(maps, x, w)[0]


def forward(
    maps: Transforms, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> tuple[Float[Array, "H_out W_out c_out N"], tuple[Float[Array, "P c n"], Float[Array, "k k c_in c_out"]]]:
    """The convolution, and the residuals of `backward`."""
    x_points = _stacked(maps.image.apply(x), maps)
    y_points = _filtered(x_points, w, maps)
    return maps.output.apply_transpose(_unstacked(y_points, maps)), (x_points, w)


def backward(
    maps: Transforms,
    residuals: tuple[Float[Array, "P c n"], Float[Array, "k k c_in c_out"]],
    dy: Float[Array, "H_out W_out c_out N"],
) -> tuple[Float[Array, "H W c_in N"], Float[Array, "k k c_in c_out"]]:
    """dx and dw."""
    x_points, w = residuals
    # Makes the filters depend on dy, which XLA cannot undo as it can a barrier: else it transforms them early and holds
    # them.
    w = w * jnp.where(jnp.isnan(dy[0, 0, 0, 0]), jnp.nan, 1).astype(w.dtype)
    dy_points = _stacked(maps.output.apply(dy), maps)
    dx_points = _filtered(dy_points, w, maps, transpose=True)
    dw_points = _einsum("pin,pon->pio", x_points, dy_points)
    return (
        maps.image.apply_transpose(_unstacked(dx_points, maps)),
        maps.kernel.apply_transpose(_points_of_filters(dw_points, maps)),
    )


convolve.defvjp(forward, backward)


def _filtered(
    points: Float[Array, "P a n"], w: Float[Array, "k k c_in c_out"], maps: Transforms, *, transpose: bool = False
) -> Float[Array, "P b n"]:
    """Σ_i w[i, o]·points[i] at every point, or with `transpose` Σ_o w[i, o]·points[o].

    Each transforms the filters anew. That costs less than to keep them, or to multiply in the slower order: XLA:CPU has
    one routine for a·b and another for aᵀ·b.
    """
    plain = choice.is_plain(min(w.shape[2:]) * (1 if maps.form.gauss else 2))
    swap = plain != transpose
    filters = _matrices(maps.kernel.apply(w.swapaxes(2, 3) if swap else w), maps, swapped=swap)
    return _einsum("pab,pbn->pan" if plain else "pba,pbn->pan", filters, points)


# Points are [points, c, n]. Without Gauss's trick, points of images come in pairs (re, im), which count as twice the
# channels, and points of filters in fours, the 2×2 blocks that multiply these pairs.


def _stacked(points: Float[Array, "P c n"], maps: Transforms) -> Float[Array, "P_2 c_2 n"]:
    return points if maps.form.gauss else points.reshape(-1, 2 * points.shape[1], points.shape[2])


def _unstacked(points: Float[Array, "P_2 c_2 n"], maps: Transforms) -> Float[Array, "P c n"]:
    return points if maps.form.gauss else points.reshape(-1, points.shape[1] // 2, points.shape[2])


def _matrices(points: Float[Array, "P_4 a b"], maps: Transforms, *, swapped: bool) -> Float[Array, "P i o"]:
    """The factors of the points of images: [points, in, out], or [points, out, in] of `swapped` filters."""
    if maps.form.gauss:
        return points
    a, b = points.shape[1:]
    order = (0, 2, 3, 1, 4) if swapped else (0, 1, 3, 2, 4)
    return points.reshape(-1, 2, 2, a, b).transpose(order).reshape(-1, 2 * a, 2 * b)


def _points_of_filters(matrices: Float[Array, "P i o"], maps: Transforms) -> Float[Array, "P_4 a b"]:
    """The inverse of `_matrices`, unswapped."""
    if maps.form.gauss:
        return matrices
    i, o = matrices.shape[1] // 2, matrices.shape[2] // 2
    return matrices.reshape(-1, 2, i, 2, o).transpose(0, 1, 3, 2, 4).reshape(-1, i, o)


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)
