"""Convolution of few input channels, a square of 2×2 outputs at a time, as one matrix product.

A product over three channels and 25 taps is too thin for a CPU. The four outputs of a square see (k + 1)² pixels
together. The filters, moved to the place of each of the four, form one matrix [4·c_out, (k + 1)²·c_in] that is the same
everywhere. For k = 5 it makes 1.44 times the multiplications of the sum over taps, all in one product of a good shape.
`toeplitz` does the same with a longer block of one row, which suits small images.

The squares of a row, of all images, are computed together, row after row, so that the patches stay in the cache. A
max-pool is taken of the squares themselves, before anything is written out.
"""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int8

from kernels.conv2d.dft import refuse_unless_served
from kernels.max_pool.winners import largest_of
from kernels.varying import varying_like

_MAX_CHANNELS = 4


def conv2d(
    x: Float[Array, "..."],
    w: Float[Array, "k_h k_w c_in c_out"],
    *,
    stride: int,
    padding: int,
    layout: str,
    pool: bool = False,
) -> Float[Array, "..."]:
    """As `reference`, for at most 4 input channels and the arguments that `dft` serves; with `pool`, its 2×2 maxima."""
    refuse_unless_served("squares", x, w, stride)
    if w.shape[2] > _MAX_CHANNELS:
        raise NotImplementedError(f"squares takes at most {_MAX_CHANNELS} input channels, not {w.shape[2]}")
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    height, width = (length + 2 * padding - w.shape[0] + 1 for length in x.shape[:2])
    # A last odd row or column is half a square, and the pool leaves it out.
    down, across = (length // 2 if pool else -(-length // 2) for length in (height, width))
    y = _convolve(_Squares(w.shape[0], down, across, pool), _in_pairs(x, w.shape[0], padding, down, across), w)
    y = y if pool else y[:height, :width]
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


@dataclasses.dataclass(frozen=True)
class _Squares:
    k: int
    down: int
    across: int
    pool: bool

    def rows(self, pairs: Float[Array, "H 2 c_in W_2 N"], i: Int[Array, ""]) -> Float[Array, "{self.k}+1 2 c_in W_2 N"]:
        """The input of the squares of row i."""
        return lax.dynamic_slice_in_dim(pairs, 2 * i, self.k + 1)

    def patches(
        self, rows: Float[Array, "{self.k}+1 2 c_in W_2 N"]
    ) -> Float[Array, "({self.k}+1)**2*c_in {self.across}*N"]:
        """A column of pixels for each square: every one of the (k + 1) / 2 pairs of columns that it sees, by copies."""
        shifted = [rows[..., pair : pair + self.across, :] for pair in range((self.k + 1) // 2)]
        return jnp.stack(shifted).reshape(-1, self.across * rows.shape[4])

    def matrix(self, w: Float[Array, "k k c_in c_out"]) -> Float[Array, "4*c_out (k+1)**2*c_in"]:
        """The filters at each output of a square, in the order of `patches`."""
        place = np.stack([np.eye(self.k, self.k + 1, offset) for offset in range(2)]).astype(w.dtype)
        matrix = jnp.einsum("isa,jtb,stco->ijobac", place, place, w, precision=lax.Precision.HIGHEST)
        *outputs, columns, rows, c_in = matrix.shape
        # A column is 2·pair + parity.
        by_pair = matrix.reshape(*outputs, columns // 2, 2, rows, c_in).swapaxes(4, 5)
        return by_pair.reshape(4 * w.shape[3], -1)


def _in_pairs(
    x: Float[Array, "H W c_in N"], k: int, padding: int, down: int, across: int
) -> Float[Array, "2*{down}+{k}-1 2 c_in {across}+({k}-1)//2 N"]:
    """The input of all squares, with even and odd columns apart."""
    highs = (2 * count + k - 1 - padding - n for count, n in zip((down, across), x.shape[:2], strict=True))
    pads = [(padding, high, 0) for high in highs]  # a negative one takes away
    x = lax.pad(x, jnp.zeros((), x.dtype), [*pads, (0, 0, 0), (0, 0, 0)])
    return x.reshape(x.shape[0], -1, 2, *x.shape[2:]).transpose(0, 2, 3, 1, 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(
    squares: _Squares, pairs: Float[Array, "H 2 c_in W_2 N"], w: Float[Array, "k k c_in c_out"]
) -> Float[Array, "H_out W_out c_out N"]:
    return _forward(squares, pairs, w)[0]


def _forward(
    squares: _Squares, pairs: Float[Array, "H 2 c_in W_2 N"], w: Float[Array, "k k c_in c_out"]
) -> tuple[Float[Array, "H_out W_out c_out N"], Any]:
    matrix = squares.matrix(w)

    def one(i: Array) -> tuple[Array, Int8[Array, "c_out W_2 N"] | None]:
        patches = squares.patches(squares.rows(pairs, i))
        y = _product("qp,pn->qn", matrix, patches).reshape(2, 2, -1, squares.across, pairs.shape[4])
        if not squares.pool:
            return y.transpose(0, 3, 1, 2, 4), None
        # Else XLA would convolve once for the maxima and once more for their places.
        largest, winner = largest_of(list(lax.optimization_barrier(y.reshape(4, *y.shape[2:]))))
        return largest.swapaxes(0, 1), winner

    y, winners = lax.map(one, jnp.arange(squares.down))
    if not squares.pool:
        y = y.reshape(2 * squares.down, 2 * squares.across, *y.shape[4:])
    return y, (pairs, w, winners)


def _backward(
    squares: _Squares, residuals: Any, dy: Float[Array, "H_out W_out c_out N"]
) -> tuple[Float[Array, "H 2 c_in W_2 N"], Float[Array, "k k c_in c_out"]]:
    pairs, w, winners = residuals
    matrix, to_dw = jax.vjp(squares.matrix, w)
    of_rows = dy if squares.pool else dy.reshape(squares.down, 2, squares.across, 2, *dy.shape[2:])

    def one(d_transposed: Array, row: tuple[Array, Array, Array | None]) -> tuple[Array, Array]:
        i, dy, winner = row
        rows = squares.rows(pairs, i)
        if winner is None:
            dy = dy.transpose(0, 2, 3, 1, 4)
        else:
            dy = dy.swapaxes(0, 1)
            dy = jnp.stack([jnp.where(winner == place, dy, jnp.zeros_like(dy)) for place in range(4)])
        # Else XLA would lay them out anew for each product.
        patches, dy = lax.optimization_barrier((squares.patches(rows), dy.reshape(matrix.shape[0], -1)))
        (d_rows,) = jax.linear_transpose(squares.patches, rows)(_product("qp,qn->pn", matrix, dy))
        return d_transposed + _product("pn,qn->pq", patches, dy), d_rows

    start = varying_like(jnp.zeros_like(matrix.T), dy)
    d_transposed, d_rows = lax.scan(one, start, (jnp.arange(squares.down), of_rows, winners))
    return _summed(d_rows, pairs), *to_dw(d_transposed.T)


_convolve.defvjp(_forward, _backward)


def _summed(
    d_rows: Float[Array, "down k_1 2 c_in W_2 N"], pairs: Float[Array, "H 2 c_in W_2 N"]
) -> Float[Array, "H 2 c_in W_2 N"]:
    """The transpose of all `rows`: a row of squares begins two pixels below the one before."""

    def of_two(first: int) -> Array:
        two = d_rows[:, first : first + 2].reshape(-1, *pairs.shape[1:])
        return jnp.pad(two, [(first, pairs.shape[0] - first - two.shape[0]), *[(0, 0)] * 4])

    return functools.reduce(operator.add, (of_two(first) for first in range(0, d_rows.shape[1], 2)))


def _product(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, precision=lax.Precision.HIGHEST)
