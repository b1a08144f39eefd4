"""Max-pooling that keeps the place of each maximum, a byte a window, for the gradient.

JAX's own gradient compares again and scatters, at which XLA:CPU is slow; it also loses the gradient of a window that
holds −∞ alone to the padding, and gives the gradient of a window with NaN to another pixel than PyTorch does.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8, Shaped

from kernels.max_pool.windows import Windows, first_inside, lowest, pixels, unpool
from kernels.platform import is_cpu


@dataclasses.dataclass(frozen=True)
class _Static:
    windows: Windows
    shape: tuple[Any, ...]  # of integers, or of symbolic dimensions in an export


def max_pool(x: Shaped[Array, "..."], windows: Windows) -> Shaped[Array, "..."]:
    """As `reference`."""
    if not jnp.issubdtype(x.dtype, jnp.floating):  # has no gradient
        return _largest(x, windows)
    return _max_pool(_Static(windows, x.shape), x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(static: _Static, x: Float[Array, "..."]) -> Float[Array, "..."]:
    return _largest(x, static.windows)


def _largest(x: Shaped[Array, "..."], windows: Windows) -> Shaped[Array, "..."]:
    if is_cpu():
        return functools.reduce(jnp.maximum, pixels(x, windows))
    size, stride = (tuple(n if axis in "HW" else 1 for axis in windows.layout) for n in (windows.size, windows.stride))
    padding = [(windows.padding,) * 2 if axis in "HW" else (0, 0) for axis in windows.layout]
    return lax.reduce_window(x, lowest(x.dtype), lax.max, size, stride, padding)


def maxima(x: Float[Array, "..."], windows: Windows) -> tuple[Float[Array, "..."], Int8[Array, "..."]]:
    """The maximum of each window, and its place there, counted in row-major order."""
    return largest_of(pixels(x, windows), first_inside(x, windows) if windows.padding else None)


def largest_of(
    arrays: list[Float[Array, "*shape"]], start: Int8[Array, "..."] | None = None
) -> tuple[Float[Array, "*shape"], Int8[Array, "*shape"]]:
    """The elementwise maximum, and which array has it: the first that does, or the last that is NaN.

    `start` has the number of the array to name where none is above −∞; None is the first everywhere.
    """
    largest, *others = arrays
    winner = jnp.zeros_like(largest, jnp.int8)
    if start is not None:
        winner = winner + start
    for i, array in enumerate(others, 1):
        winner = jnp.where((array > largest) | (array != array), jnp.int8(i), winner)
        largest = jnp.maximum(largest, array)
    return largest, winner


def _forward(static: _Static, x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Int8[Array, "..."]]:
    return maxima(x, static.windows)


def _backward(static: _Static, winner: Int8[Array, "..."], dy: Float[Array, "..."]) -> tuple[Float[Array, "..."]]:
    return (unpool(dy, winner, static.shape, static.windows),)


_max_pool.defvjp(_forward, _backward)
