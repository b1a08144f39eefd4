"""The windows of a pool: which pixels each one sees, and the way of a gradient back to the place of each maximum.

XLA's own way back is a scatter, and XLA:CPU is slow at that. Here it is a comparison of places.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8, Shaped


@dataclasses.dataclass(frozen=True)
class Windows:
    """Squares of `size` pixels a side, `stride` apart, over images of a layout padded on every side."""

    size: int
    stride: int
    padding: int
    layout: str

    @property
    def axes(self) -> tuple[int, int]:
        return self.layout.index("H"), self.layout.index("W")

    def count(self, length: int) -> int:
        """How many fit along an axis."""
        return (length + 2 * self.padding - self.size) // self.stride + 1

    def places(self) -> Iterator[tuple[int, int]]:
        """(row, column) of each pixel of a window, in row-major order."""
        return itertools.product(range(self.size), range(self.size))


PAIRS = Windows(size=2, stride=2, padding=0, layout="HWCN")


def lowest(dtype: np.dtype) -> np.ndarray:
    """The number that padding is made of: no other is below it."""
    if jnp.issubdtype(dtype, jnp.floating):
        return np.array(-np.inf, dtype)
    return np.array(jnp.iinfo(dtype).min, dtype)


def pixels(x: Shaped[Array, "..."], windows: Windows) -> list[Shaped[Array, "..."]]:
    """For each place, the pixels that all windows have there. Pixels that fit in no window are left out."""
    counts = [windows.count(x.shape[axis]) for axis in windows.axes]
    if windows.padding:
        margin = (windows.padding, windows.padding, 0)
        x = lax.pad(x, lowest(x.dtype), [margin if axis in "HW" else (0, 0, 0) for axis in windows.layout])

    def at(place: tuple[int, int]) -> Array:
        start, stop, step = [0] * 4, list(x.shape), [1] * 4
        for axis, offset, count in zip(windows.axes, place, counts, strict=True):
            start[axis], step[axis] = offset, windows.stride
            stop[axis] = offset + (count - 1) * windows.stride + 1
        return lax.slice(x, start, stop, step)

    return [at(place) for place in windows.places()]


def first_inside(x: Shaped[Array, "..."], windows: Windows) -> Int8[Array, "..."]:
    """The first place of each window that is in the image and not in the padding; to broadcast over the pooled x."""
    rows, columns = (
        np.maximum(0, windows.padding - windows.stride * np.arange(windows.count(x.shape[axis])))
        for axis in windows.axes
    )
    shape = [len(rows) if axis == "H" else len(columns) if axis == "W" else 1 for axis in windows.layout]
    return jnp.asarray((windows.size * rows[:, None] + columns).reshape(shape), jnp.int8)


def unpool(
    dy: Float[Array, "*pooled"], winner: Int8[Array, "*pooled"], shape: tuple[int, ...], windows: Windows
) -> Float[Array, "..."]:
    """dy of each window at its winner's place in an array of `shape`, 0 elsewhere; where windows overlap, the sum."""
    if windows.stride == windows.size and not windows.padding:
        return _spread(dy, winner, shape, windows)
    parts = (
        lax.pad(
            jnp.where(winner == place, dy, jnp.zeros_like(dy)),
            jnp.zeros((), dy.dtype),
            [_room(axis, offsets, dy.shape, shape, windows) for axis in range(4)],
        )
        for place, offsets in enumerate(windows.places())
    )
    return functools.reduce(operator.add, parts)


def _room(
    axis: int, offsets: tuple[int, int], pooled: tuple[int, ...], shape: tuple[int, ...], windows: Windows
) -> tuple[int, int, int]:
    """`lax.pad`'s (low, high, interior) that moves one place of all windows to its pixels in the image."""
    if axis not in windows.axes:
        return 0, 0, 0
    low = offsets[windows.axes.index(axis)] - windows.padding
    reach = (pooled[axis] - 1) * windows.stride + 1
    return low, shape[axis] - low - reach, windows.stride - 1


def _spread(
    dy: Float[Array, "*pooled"], winner: Int8[Array, "*pooled"], shape: tuple[int, ...], windows: Windows
) -> Float[Array, "..."]:
    """`unpool` for windows side by side: writes the result once instead of adding one array for each place."""
    rows, columns = windows.axes
    size = windows.size

    def spread(v: Array) -> Array:  # a window becomes two axes, behind its own
        v = jnp.expand_dims(v, (rows + 1, columns + 2))
        return jnp.broadcast_to(v, [*v.shape[: rows + 1], size, v.shape[columns + 1], size, *v.shape[columns + 3 :]])

    spread_dy = spread(dy)
    row = lax.broadcasted_iota(jnp.int8, spread_dy.shape, rows + 1)
    column = lax.broadcasted_iota(jnp.int8, spread_dy.shape, columns + 2)
    is_winner = spread(winner) == size * row + column
    pooled = [
        length // size * size if name in "HW" else length for length, name in zip(shape, windows.layout, strict=True)
    ]
    dx = jnp.where(is_winner, spread_dy, jnp.zeros_like(spread_dy)).reshape(pooled)
    return jnp.pad(dx, [(0, length - covered) for length, covered in zip(shape, pooled, strict=True)])
