"""Convolution of large images as a DFT of small overlapping tiles (overlap-save).

The work of `dft` for a pixel grows with the side of the image; cut into tiles it does not. A tile of t×t output
pixels needs t + k − 1 input pixels a side, so neighbours share a border of k − 1; a "valid" convolution of each, with
all tiles of all images as one batch, gives the output without any sum over tiles.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.conv2d import choice
from kernels.conv2d.dft import convolve, refuse_unless_served
from kernels.conv2d.reference import Padding
from kernels.conv2d.transforms import transforms


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k k c_in c_out"], *, stride: int, padding: Padding, layout: str
) -> Float[Array, "..."]:
    """As `reference`, for what `dft` serves."""
    refuse_unless_served("tiled", x, w, stride, padding)
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    k, _, c_in, c_out = w.shape
    (height, rows), (width, columns) = (
        _split(size + sum(pads) - k + 1, k) for size, pads in zip(x.shape[:2], padding, strict=True)
    )
    tiles = _tiles(_tiles(x, 0, height, rows, padding[0], k), 2, width, columns, padding[1], k)
    down, side_h, across, side_w, _, batch = tiles.shape
    tiles = tiles.transpose(1, 3, 4, 0, 2, 5).reshape(side_h, side_w, c_in, -1)

    plan = choice.dft_plan((side_h, side_w), c_in, c_out)
    y = convolve(transforms((side_h, side_w), k, ((0, 0), (0, 0)), plan), tiles, w)

    y = y.reshape(rows, columns, c_out, down, across, batch).transpose(3, 0, 4, 1, 2, 5)
    y = y.reshape(down * rows, across * columns, c_out, batch)[:height, :width]
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


def _split(length: int, k: int) -> tuple[int, int]:
    """The length of an output axis, and of a tile along it: tiles as equal as can be, and no border wider than one."""
    count = -(-length // choice.TILE)
    return length, max(-(-length // count), k - 1)


def _tiles(x: Array, axis: int, length: int, tile: int, pads: tuple[int, int], k: int) -> Array:
    """Splits an axis in two, [tiles, tile + k − 1]: each tile and the border it shares with the next.

    Written as blocks with the head of the block that follows, the gradient is one sum of two arrays; of overlapping
    slices it would be a sum of as many arrays as there are tiles.
    """
    count = -(-length // tile)
    low, high = pads[0], (count + 1) * tile - pads[0] - x.shape[axis]
    x = jnp.pad(x, [(low, high) if i == axis else (0, 0) for i in range(x.ndim)])
    blocks = x.reshape(*x.shape[:axis], count + 1, tile, *x.shape[axis + 1 :])
    before = (slice(None),) * axis
    return jnp.concatenate([blocks[*before, :-1], blocks[*before, 1:, : k - 1]], axis=axis + 1)
