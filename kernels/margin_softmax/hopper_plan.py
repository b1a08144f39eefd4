"""Tiles and buffers of `mosaic_gpu`, and the classes of each block."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

ROWS = 128  # rows of embeddings a block, 64 of which are one wgmma
STEP = 64  # of D at a time: 128 bytes in bfloat16, the widest swizzle there is
PIECE = 32  # columns of a tile at a time in the epilogue: few registers, and 64 bytes, a swizzle, when written
SHARED_MEMORY = 227 * 1024  # bytes a block may have


@dataclasses.dataclass(frozen=True)
class HopperPlan:
    """One launch, for N rows (whole blocks of 128), vectors of length D (whole steps of 64) and C classes.

    Class weights are [K·C, D], centre after centre; C must be a multiple of `tile` if K > 1 or `backward`. Classes from
    `num_valid` on do not count. `shift`, in base 2, suits all rows; None means that the kernel finds the largest
    logit of each row itself. A known scale is a constant of the program. With `interpret` the kernel runs on a CPU.

    Float32 vectors have two parts, [2·N, D] and [2·K·C, D]: each number rounded to bfloat16, and its rounding error.
    Their product is a sum of three; the product of the two errors is too small to count.
    """

    num_rows: int
    x_parts: int
    w_parts: int
    length: int
    num_classes: int
    num_centers: int
    num_valid: int
    is_hard: bool
    known_scale: float | None
    backward: bool
    shift: float | None
    multiprocessors: int
    interpret: Any

    @property
    def tile(self) -> int:
        """The number of classes in a product; half as many where two tiles are alive."""
        return 128 if self.num_centers == 1 else 64

    @property
    def steps(self) -> int:
        """The number of steps in a product; each multiplies 64 numbers of a part of x and of a part of w."""
        return (self.x_parts + self.w_parts - 1) * self._steps_a_part

    def operands(self, step: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """The part of x and the part of w that a step multiplies, each with the index of its 64 numbers."""
        if self.x_parts == self.w_parts == 1:
            return (0, step), (0, step)
        pair, column = (of(jnp.int32(step), jnp.int32(self._steps_a_part)) for of in (lax.div, lax.rem))
        x_part, w_part = (of(pair, jnp.int32(self.w_parts)) for of in (lax.div, lax.rem))
        return (x_part, column), (w_part, column)

    @property
    def keeps_x(self) -> bool:
        """Whether a block's embeddings stay in shared memory, or are fetched with every tile of class weights.

        They stay if two buffers of class weights are left for each warpgroup: with one it would wait for itself.
        """
        return self._left - self._x_bytes >= 2 * self._buffers_bytes

    @property
    def x_buffers(self) -> int:
        """The number of buffers of embeddings, each of 128 rows and 64 numbers a row."""
        return self._x_bytes // (ROWS * STEP * 2) if self.keeps_x else 2 * self.stages

    def x_buffer(self, step: Any, slot: Any) -> Any:
        """The buffer of the embeddings for a step whose class weights are in a slot of the ring."""
        (part, column), _ = self.operands(step)
        return part * self._steps_a_part + column if self.keeps_x else slot

    def slot(self, warpgroup: Any, n: Any) -> Any:
        """The buffer of a warpgroup's n-th step."""
        return warpgroup * self.stages + lax.rem(jnp.int32(n), jnp.int32(self.stages))

    @property
    def stages(self) -> int:
        """The number of buffers in each of the two rings: as many as fit, but at most 6; more would not be faster."""
        if self.keeps_x:
            return min(6, (self._left - self._x_bytes) // self._buffers_bytes)
        return self._left // (self._buffers_bytes + 2 * ROWS * STEP * 2)

    @property
    def dz_parts(self) -> int:
        """The number of parts of the gradients: as many as the operands have."""
        return max(self.x_parts, self.w_parts)

    @property
    def products(self) -> int:
        """The products of a tile of classes: one a centre to find the nearest, and again to write its gradients."""
        return self.num_centers * (2 if self.backward and self.num_centers > 1 else 1)

    @property
    def turns(self) -> int:
        """The pairs of tiles in a block: each of its two warpgroups computes one tile of a pair."""
        return pl.cdiv(self._pairs, max(1, min(self._pairs, self.multiprocessors // self.row_blocks)))

    @property
    def splits(self) -> int:
        """The number of blocks that share the same rows."""
        return pl.cdiv(self._pairs, self.turns)

    @property
    def _steps_a_part(self) -> int:
        return self.length // STEP

    @property
    def _x_bytes(self) -> int:
        return self.x_parts * self.length * ROWS * 2

    @property
    def _buffers_bytes(self) -> int:
        """Bytes of one buffer of class weights for each warpgroup."""
        return 2 * self.tile * STEP * 2

    @property
    def _left(self) -> int:
        """Bytes of shared memory without lengths, barriers, and two pieces of gradients for each warpgroup."""
        return SHARED_MEMORY - 2 * ROWS * 4 - 1024 - (2 * 2 * ROWS * PIECE * 2 if self.backward else 0)

    @property
    def _pairs(self) -> int:
        return pl.cdiv(pl.cdiv(self.num_classes, self.tile), 2)

    @property
    def row_blocks(self) -> int:
        return self.num_rows // ROWS
