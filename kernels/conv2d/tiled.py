"""Convolution of large images as a DFT of small overlapping tiles (overlap-save).

The work of `dft` for a pixel grows with the side of the image; cut into tiles it does not. A tile of t×t output
pixels needs t + k − 1 input pixels a side, so neighbours share a border of k − 1; a "valid" convolution of each gives
the output without any sum over tiles.

Rows of tiles are computed one after the other, with the tiles of a row, of all images, as one batch: what there is of
points then at a time stays near the processor. A max-pool is taken of the tiles, before anything is written out.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from kernels.conv2d import choice, dft
from kernels.conv2d.reference import Padding
from kernels.conv2d.transforms import Transforms, transforms
from kernels.max_pool.windows import PAIRS, unpool
from kernels.max_pool.winners import maxima
from kernels.varying import varying_like


def conv2d(
    x: Float[Array, "..."],
    w: Float[Array, "k k c_in c_out"],
    *,
    stride: int,
    padding: Padding,
    layout: str,
    pool: bool = False,
) -> Float[Array, "..."]:
    """As `reference`, for what `dft` serves; with `pool`, the maxima of 2×2 windows of that."""
    dft.refuse_unless_served("tiled", x, w, stride, padding)
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    k = w.shape[0]
    height, width = (length + sum(pads) - k + 1 for length, pads in zip(x.shape[:2], padding, strict=True))
    limit = choice.tile_limit(width, k, x.shape[3], max(w.shape[2:]))
    tile_h, tile_w = (_tile(length, limit, k, even=pool) for length in (height, width))
    sides = tile_h + k - 1, tile_w + k - 1
    maps = transforms(sides, k, ((0, 0), (0, 0)), choice.dft_plan(sides, *w.shape[2:]))
    tiling = _Tiling(maps, k, padding, (tile_h, tile_w), (-(-height // tile_h), -(-width // tile_w)), pool)
    y = _convolve(tiling, x, w)
    y = y[: height // 2, : width // 2] if pool else y[:height, :width]
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


@dataclasses.dataclass(frozen=True)
class _Tiling:
    """`tile` and `count`, of tiles, along the height and the width of the output, which the last ones may exceed."""

    maps: Transforms
    k: int
    padding: Padding
    tile: tuple[int, int]
    count: tuple[int, int]
    pool: bool

    def rows(self, x: Float[Array, "H W c_in N"]) -> Float[Array, "down side W c_in N"]:
        return _overlapping(x, 0, self.tile[0], self.count[0], self.padding[0][0], self.k)

    def tiles(self, row: Float[Array, "side W c_in N"]) -> Float[Array, "side side_w c_in tiles"]:
        """A row's tiles, of all images."""
        x = _overlapping(row, 1, self.tile[1], self.count[1], self.padding[1][0], self.k)
        side, _, side_w, c_in, _ = x.shape
        return x.transpose(0, 2, 3, 1, 4).reshape(side, side_w, c_in, -1)

    def joined(self, tiles: Float[Array, "h w c tiles"]) -> Float[Array, "h across_w c N"]:
        h, w, c, _ = tiles.shape
        return tiles.reshape(h, w, c, self.count[1], -1).transpose(0, 3, 1, 2, 4).reshape(h, self.count[1] * w, c, -1)

    def parted(self, row: Float[Array, "h across_w c N"]) -> Float[Array, "h w c tiles"]:
        """The way back of `joined`."""
        h, _, c, batch = row.shape
        return (
            row.reshape(h, self.count[1], -1, c, batch)
            .transpose(0, 2, 3, 1, 4)
            .reshape(h, -1, c, batch * self.count[1])
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(
    tiling: _Tiling, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> Float[Array, "H_tiled W_tiled c_out N"]:
    """What of the last tiles is beyond the output is there still."""
    return _forward(tiling, x, w)[0]


def _forward(tiling: _Tiling, x: Array, w: Array) -> tuple[Array, Any]:
    def one(row: Array) -> tuple[Array, tuple[Array, Int8[Array, "..."] | None]]:
        y, (points, _) = dft.forward(tiling.maps, tiling.tiles(row), w)
        if not tiling.pool:
            return tiling.joined(y), (points, None)
        # Or XLA would convolve once for the maxima and once more for their places.
        largest, winner = maxima(lax.optimization_barrier(y), PAIRS)
        return tiling.joined(largest), (points, winner)

    y, of_rows = lax.map(one, tiling.rows(x))
    # x is kept for its shape alone.
    return y.reshape(-1, *y.shape[2:]), (x, w, of_rows)


def _backward(tiling: _Tiling, residuals: Any, dy: Array) -> tuple[Array, Array]:
    x, w, of_rows = residuals
    row = jax.eval_shape(lambda x: tiling.rows(x)[0], x)

    def one(dw: Array, of_row: tuple[Array, tuple[Array, Any]]) -> tuple[Array, Array]:
        d_row, (points, winner) = of_row
        dy = tiling.parted(d_row)
        if tiling.pool:
            dy = lax.optimization_barrier(unpool(dy, winner, (*tiling.tile, *dy.shape[2:]), PAIRS))
        d_tiles, dw_of_row = dft.backward(tiling.maps, (points, w), dy)
        return dw + dw_of_row, jax.linear_transpose(tiling.tiles, row)(d_tiles)[0]

    d_rows = dy.reshape(tiling.count[0], -1, *dy.shape[1:])
    dw, d_rows = lax.scan(one, varying_like(jnp.zeros_like(w), dy), (d_rows, of_rows))
    return jax.linear_transpose(tiling.rows, x)(d_rows)[0], dw


_convolve.defvjp(_forward, _backward)


def _tile(length: int, limit: int, k: int, *, even: bool) -> int:
    """The length of a tile along an output axis: tiles as equal as can be, and no border wider than one."""
    tile = max(-(-length // -(-length // limit)), k - 1)
    return tile + tile % 2 if even else tile


def _overlapping(x: Array, axis: int, tile: int, count: int, low: int, k: int) -> Array:
    """Splits an axis in two, [tiles, tile + k − 1]: each tile and the border it shares with the next.

    Written as blocks with the head of the block that follows, the gradient is one sum of two arrays; of overlapping
    slices it would be a sum of as many arrays as there are tiles.
    """
    high = (count + 1) * tile - low - x.shape[axis]
    x = jnp.pad(x, [(low, high) if i == axis else (0, 0) for i in range(x.ndim)])
    blocks = x.reshape(*x.shape[:axis], count + 1, tile, *x.shape[axis + 1 :])
    before = (slice(None),) * axis
    return jnp.concatenate([blocks[*before, :-1], blocks[*before, 1:, : k - 1]], axis=axis + 1)
