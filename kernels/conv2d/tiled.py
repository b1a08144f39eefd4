"""Convolution of large images as a DFT of small overlapping tiles (overlap-save).

The work of `dft` for a pixel grows with the side of the image; in tiles it does not. A tile of t×t output pixels needs
t + k − 1 input pixels a side, so neighbours share a border of k − 1. An unpadded convolution of each tile gives the
output, without any sum over tiles.

Rows of tiles are computed one after the other. The tiles of a row, of all images, form one batch, so that its points
stay in the cache. The rows are unrolled: a loop of XLA's would clear the array of its results first, and then copy into
it. A max-pool is taken of the tiles, before anything is written out.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from kernels.conv2d import choice, dft
from kernels.conv2d.transforms import Transforms, transforms
from kernels.max_pool.windows import PAIRS, unpool
from kernels.max_pool.winners import maxima
from kernels.varying import varying_like


def conv2d(
    x: Float[Array, "..."],
    w: Float[Array, "k_h k_w c_in c_out"],
    *,
    stride: int,
    padding: int,
    layout: str,
    pool: bool = False,
) -> Float[Array, "..."]:
    """As `reference`, for the arguments that `dft` serves; with `pool`, the maxima of 2×2 windows."""
    dft.refuse_unless_served("tiled", x, w, stride)
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    k = w.shape[0]
    height, width = (length + 2 * padding - k + 1 for length in x.shape[:2])
    limit = choice.tile_limit(width, k, x.shape[3], max(w.shape[2:]))
    tile_h, tile_w = (side_of_a_tile(length, limit, k, even=pool) for length in (height, width))
    sides = tile_h + k - 1, tile_w + k - 1
    maps = transforms(sides, k, 0, choice.dft_form(sides, *w.shape[2:]))
    tiling = _Tiling(maps, k, padding, (tile_h, tile_w), (-(-height // tile_h), -(-width // tile_w)), pool)
    y = _convolve(tiling, x, w)
    y = y[: height // 2, : width // 2] if pool else y[:height, :width]
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


@dataclasses.dataclass(frozen=True)
class _Tiling:
    """The sides of a tile and the count of tiles, along the output's height and width. The last may reach beyond it."""

    maps: Transforms
    k: int
    padding: int
    tile: tuple[int, int]
    count: tuple[int, int]
    pool: bool

    def rows(self, x: Float[Array, "H W c_in N"]) -> list[Float[Array, "side W c_in N"]]:
        """The input of each row of tiles: k − 1 pixels higher than its tiles, a border that the next row sees too."""
        tile, low = self.tile[0], self.padding
        wanted = self.count[0] * tile + self.k - 1
        x = jnp.pad(x, ((low, wanted - low - x.shape[0]), (0, 0), (0, 0), (0, 0)))
        return [x[top : top + tile + self.k - 1] for top in range(0, self.count[0] * tile, tile)]

    def summed(self, rows: list[Float[Array, "side W c_in N"]], height: int) -> Float[Array, "H W c_in N"]:
        """The transpose of `rows`."""
        tile, low, shared = self.tile[0], self.padding, self.k - 1
        x = [rows[0][:tile]]
        for above, row in itertools.pairwise(rows):
            x += [above[tile:] + row[:shared], row[shared:tile]]
        return jnp.concatenate([*x, rows[-1][tile:]])[low : low + height]

    def tiles(self, row: Float[Array, "side W c_in N"]) -> Float[Array, "side side_w c_in tiles"]:
        """A row's tiles, of all images.

        Each is a block and the head of the next block, so that the transpose is one sum of two arrays. Of overlapping
        slices it would be a sum of as many arrays as there are tiles.
        """
        side, width, c_in, _ = row.shape
        tile, count, low = self.tile[1], self.count[1], self.padding
        row = jnp.pad(row, ((0, 0), (low, (count + 1) * tile - low - width), (0, 0), (0, 0)))
        blocks = row.reshape(side, count + 1, tile, c_in, -1)
        x = jnp.concatenate([blocks[:, :-1], blocks[:, 1:, : self.k - 1]], axis=2)
        return x.transpose(0, 2, 3, 1, 4).reshape(side, tile + self.k - 1, c_in, -1)

    def joined(self, tiles: Float[Array, "h w c tiles"]) -> Float[Array, "h across_w c N"]:
        h, w, c, _ = tiles.shape
        return tiles.reshape(h, w, c, self.count[1], -1).transpose(0, 3, 1, 2, 4).reshape(h, self.count[1] * w, c, -1)

    def parted(self, row: Float[Array, "h across_w c N"]) -> Float[Array, "h w c tiles"]:
        """The inverse of `joined`."""
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
    """The output, with the part of the last tiles that reaches beyond it."""
    return _forward(tiling, x, w)[0]


def _forward(
    tiling: _Tiling, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> tuple[Float[Array, "H_tiled W_tiled c_out N"], Any]:
    def one(row: Array) -> tuple[Array, tuple[Array, Int8[Array, "..."] | None]]:
        y, (points, _) = dft.forward(tiling.maps, tiling.tiles(row), w)
        if not tiling.pool:
            return tiling.joined(y), (points, None)
        # Else XLA would convolve once for the maxima and once more for their places.
        largest, winner = maxima(lax.optimization_barrier(y), PAIRS)
        return tiling.joined(largest), (points, winner)

    y: list[Array] = []
    of_rows = []
    for row in tiling.rows(x):
        if y:
            row, y[-1] = _after(row, y[-1])
        y_of_row, of_row = one(row)
        y.append(y_of_row)
        of_rows.append(of_row)
    return jnp.concatenate(y), (x, w, of_rows)  # x is kept for its shape alone


def _backward(
    tiling: _Tiling, residuals: Any, dy: Float[Array, "H_tiled W_tiled c_out N"]
) -> tuple[Float[Array, "H W c_in N"], Float[Array, "k k c_in c_out"]]:
    x, w, of_rows = residuals
    row = jax.eval_shape(lambda x: tiling.rows(x)[0], x)
    dw = varying_like(jnp.zeros_like(w), dy)
    d_rows = []
    for dy_of_row, (points, winner) in zip(jnp.split(dy, tiling.count[0]), of_rows, strict=True):
        dy_of_row, dw = _after(dy_of_row, dw)
        dy_tiles = tiling.parted(dy_of_row)
        if tiling.pool:
            shape = *tiling.tile, *dy_tiles.shape[2:]
            dy_tiles = lax.optimization_barrier(unpool(dy_tiles, winner, shape, PAIRS))
        d_tiles, dw_of_row = dft.backward(tiling.maps, (points, w), dy_tiles)
        dw = dw + dw_of_row
        d_rows += jax.linear_transpose(tiling.tiles, row)(d_tiles)
    return tiling.summed(d_rows, x.shape[0]), dw


_convolve.defvjp(_forward, _backward)


def _after(array: Array, other: Array) -> tuple[Array, Array]:
    """Forces both to be computed first, so that XLA cannot run rows in parallel and hold them all."""
    return lax.optimization_barrier((array, other))


def side_of_a_tile(length: int, limit: int, k: int, *, even: bool) -> int:
    """The side of a tile along an output axis: all as equal as possible, and none narrower than a border."""
    tile = max(-(-length // -(-length // limit)), k - 1)
    return tile + tile % 2 if even else tile
