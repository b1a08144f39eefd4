"""Convolution in groups as a sum over the filter's taps, where XLA:CPU has no fast routine.

XLA:CPU computes a convolution with one channel a group a number at a time, and so the filters' gradient of any groups.
Here both are products with the image, shifted by the place of a tap: with one weight for each channel, or, for the
filters' gradient, with the output's gradient.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.grouped_conv2d import reference
from kernels.precision import wide


@dataclasses.dataclass(frozen=True)
class _Static:
    groups: int
    stride: int
    padding: int


def grouped_conv2d(
    x: Float[Array, "N H W C_in"], w: Float[Array, "k_h k_w i C_out"], *, groups: int, stride: int, padding: int
) -> Float[Array, "N H_out W_out C_out"]:
    """As `reference`."""
    static = _Static(groups, stride, padding)
    if w.shape[2:] != (1, groups):
        return _grouped(static, x, w)
    shifted, dtype = _shifted(static, x, w), wide(x.dtype)
    weights = w.reshape(-1, 1, 1, 1, groups).astype(dtype)
    y: Array = sum(pixels.astype(dtype) * tap for pixels, tap in zip(shifted, weights, strict=True))  # type: ignore
    return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped(
    static: _Static, x: Float[Array, "N H W C_in"], w: Float[Array, "k_h k_w i C_out"]
) -> Float[Array, "N H_out W_out C_out"]:
    return reference.grouped_conv2d(x, w, **dataclasses.asdict(static))


def _forward(static: _Static, x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _grouped(static, x, w), (x, w)


def _backward(
    static: _Static,
    residuals: tuple[Float[Array, "N H W C_in"], Float[Array, "k_h k_w i C_out"]],
    dy: Float[Array, "N H_out W_out C_out"],
) -> tuple[Float[Array, "N H W C_in"], Float[Array, "k_h k_w i C_out"]]:
    x, w = residuals
    (dx,) = jax.vjp(lambda x: reference.grouped_conv2d(x, w, **dataclasses.asdict(static)), x)[1](dy)
    by_group = dy.reshape(-1, static.groups, dy.shape[3] // static.groups)
    taps = [
        jnp.einsum(
            "pgi,pgo->igo",
            pixels.reshape(-1, static.groups, w.shape[2]),
            by_group,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=wide(x.dtype),
        )
        for pixels in _shifted(static, x, w)
    ]
    return dx, jnp.stack(taps).reshape(w.shape).astype(w.dtype)


_grouped.defvjp(_forward, _backward)


def _shifted(
    static: _Static, x: Float[Array, "N H W C_in"], w: Float[Array, "k_h k_w i C_out"]
) -> list[Float[Array, "N H_out W_out C_in"]]:
    """For each tap, the input pixels that it multiplies."""
    pads, stride = (static.padding, static.padding), static.stride
    x = jnp.pad(x, ((0, 0), pads, pads, (0, 0)))
    batch, height, width, channels = x.shape
    reach = [(length - k) // stride * stride + 1 for length, k in zip((height, width), w.shape, strict=False)]
    return [
        lax.slice(x, (0, row, column, 0), (batch, row + reach[0], column + reach[1], channels), (1, stride, stride, 1))
        for row, column in itertools.product(range(w.shape[0]), range(w.shape[1]))
    ]
