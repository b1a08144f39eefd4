"""What `mosaic_gpu` does at once: tiles, buffers, and which block has which classes."""

import dataclasses
from typing import Any

from jax.experimental import pallas as pl

ROWS = 128  # rows of embeddings a block, 64 of which are one wgmma
STEP = 64  # of D at a time: 128 bytes in bfloat16, the widest swizzle there is
PIECE = 32  # columns of a tile at a time in the epilogue: few registers, and 64 bytes, a swizzle, when written
SHARED_MEMORY = 227 * 1024  # bytes a block may have


@dataclasses.dataclass(frozen=True)
class Plan:
    """One launch, for N rows (whole blocks of 128), vectors of length D (whole steps of 64) and C classes.

    Class weights are [K·C, D], centre after centre; C must be a multiple of `tile` if K > 1 or `backward`. Columns from
    `num_valid` on are none. `shift` is None where the largest logit of a row must be found along the way; else it is
    one that suits all rows (base-2). Interpreted on a CPU where `interpret` says so.
    """

    num_rows: int
    length: int
    num_classes: int
    num_centers: int
    num_valid: int
    scale: float
    is_hard: bool
    backward: bool
    shift: float | None
    multiprocessors: int
    interpret: Any

    @property
    def tile(self) -> int:
        """Classes a product; fewer where two tiles are alive, or where two buffers of 128 a warpgroup would not fit."""
        return 128 if self.num_centers == 1 and self.length <= 512 else 64

    @property
    def steps(self) -> int:
        return self.length // STEP

    @property
    def stages(self) -> int:
        """Buffers in each of the two rings: as many as fit, two at least; more than 6 would hide nothing more."""
        fixed = ROWS * self.length * 2 + 2 * ROWS * 4 + 1024  # embeddings; lengths; barriers
        if self.backward:
            fixed += 2 * 2 * ROWS * PIECE * 2  # two pieces of gradients for each of two warpgroups
        return min(6, (SHARED_MEMORY - fixed) // (2 * self.tile * STEP * 2))

    @property
    def products(self) -> int:
        """How many a tile of classes takes: centre by centre to find the nearest, and again to write its gradients."""
        return self.num_centers * (2 if self.backward and self.num_centers > 1 else 1)

    @property
    def turns(self) -> int:
        """Pairs of tiles a block: each of its two warpgroups computes one of a pair."""
        return pl.cdiv(self._pairs, max(1, min(self._pairs, self.multiprocessors // self.row_blocks)))

    @property
    def splits(self) -> int:
        """Blocks that share a block of rows."""
        return pl.cdiv(self._pairs, self.turns)

    @property
    def _pairs(self) -> int:
        return pl.cdiv(pl.cdiv(self.num_classes, self.tile), 2)

    @property
    def row_blocks(self) -> int:
        return self.num_rows // ROWS
