"""Max-pooling that keeps the place of each maximum, a byte a window, for XLA:CPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from kernels.max_pool.windows import Windows, pixels, unpool


@dataclasses.dataclass(frozen=True)
class _Static:
    windows: Windows
    shape: tuple[int, ...]


def max_pool(x: Float[Array, "..."], windows: Windows) -> Float[Array, "..."]:
    """As `reference`."""
    return _max_pool(_Static(windows, x.shape), x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(static: _Static, x: Array) -> Array:
    return functools.reduce(jnp.maximum, pixels(x, static.windows))


def maxima(x: Float[Array, "..."], windows: Windows) -> tuple[Float[Array, "..."], Int8[Array, "..."]]:
    """The maximum of each window, and its place there, counted in row-major order."""
    return largest_of(pixels(x, windows))


def largest_of(arrays: list[Float[Array, "..."]]) -> tuple[Float[Array, "..."], Int8[Array, "..."]]:
    """The largest of each place's values, and which array has it, the first if several do."""
    largest, *others = arrays
    winner = jnp.zeros_like(largest, jnp.int8)
    for i, array in enumerate(others, 1):
        winner = jnp.where(array > largest, jnp.int8(i), winner)
        largest = jnp.maximum(largest, array)
    return largest, winner


def _forward(static: _Static, x: Array) -> tuple[Array, Int8[Array, "..."]]:
    return maxima(x, static.windows)


def _backward(static: _Static, winner: Int8[Array, "..."], dy: Array) -> tuple[Array]:
    return (unpool(dy, winner, static.shape, static.windows),)


_max_pool.defvjp(_forward, _backward)
