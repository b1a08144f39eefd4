"""A multiplying warpgroup of `mosaic_gpu`: it turns products into sums, or into gradients.

The 128 × 128 sums of a tile take 128 of the 168 registers that each thread has. With sub-centres two tiles are alive,
the nearest so far and the next, so both are half as wide. The backward pass computes each product twice: first to find
the nearest centre, then to write the gradients.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from kernels.margin_softmax.hopper_layout import across, down
from kernels.margin_softmax.hopper_plan import PIECE, ROWS, HopperPlan

LOWEST = -1e30  # below every logit; −∞ would give ∞ − ∞

_load: Any = plgpu.load  # typed otherwise from one JAX to the next


@dataclasses.dataclass(frozen=True)
class Memory:
    """A block's shared memory (…_s) and barriers."""

    x_s: Any  # embeddings, in buffers of 64 numbers a row
    w_s: Any  # class weights, likewise: a ring for each warpgroup
    vector_s: Any  # a vector for each warpgroup
    vector_here: Any
    full: Any  # a buffer of w_s has been filled
    empty: Any  # it has been multiplied
    turn: Any  # it is the warpgroup's turn to multiply
    x_here: Any = None
    out_s: Any = None  # gradients on their way out, two pieces for each warpgroup


class Consumer:
    """The warpgroup's refs, and the registers that hold the values of its block's rows."""

    def __init__(
        self,
        plan: HopperPlan,
        memory: Memory,
        warpgroup: Any,
        inverse_w: Any,
        rows: Sequence[Any],
        outs: Sequence[Any],
    ) -> None:
        self.plan, self.memory, self.warpgroup, self.inverse_w, self.outs = plan, memory, warpgroup, inverse_w, outs
        self.split, self.here = lax.axis_index("split"), pl.ds(lax.axis_index("rows") * ROWS, ROWS)
        self.along_rows = plgpu.Layout.WGMMA.reduce(1)
        vectors = rows[:-1] if plan.is_hard else rows
        loaded = [_load(ref.at[self.here], layout=self.along_rows, optimized=False) for ref in vectors]
        self.labels, self.rate = loaded[:2]
        if plan.backward:
            self.exponent = loaded[-1]
        if plan.is_hard:
            self.threshold = loaded[2]
            self.t: Any = rows[-1][0]
            self.inverse_q: Any = rows[-1][1] if plan.known_scale is None else math.log(2) / plan.known_scale

    def write_sums(self) -> None:
        """Writes the shift and the sums over this warpgroup's tiles."""
        full_row = functools.partial(jnp.full, (ROWS,), dtype=jnp.float32)
        start = LOWEST if self.plan.shift is None else self.plan.shift
        top, total = (plgpu.layout_cast(full_row(value), self.along_rows) for value in (start, 0.0))
        vectors = lax.fori_loop(0, self.plan.turns, self._add_tile, (top, total))
        staged = self.memory.vector_s.at[self.warpgroup]
        for index, vector in enumerate(vectors):
            plgpu.wait_smem_to_gmem(0)
            self.memory.vector_s[self.warpgroup] = vector
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(staged, self.outs[0].at[2 * self.split + self.warpgroup, index, self.here])

    def write_gradients(self) -> None:
        lax.fori_loop(0, self.plan.turns, self._write_tile, None)

    def _first_class(self, turn: Any) -> Any:
        return (self.split * (self.plan.turns * 2) + 2 * turn + self.warpgroup) * self.plan.tile

    def _add_tile(self, turn: Any, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        """Adds a tile to the largest logits and to the sums of 2^(z − shift)."""
        top, total = so_far
        first_class = self._first_class(turn)
        pieces = self._nearest(turn, first_class)
        if self.plan.shift is None:
            highest = top
            for index, piece in enumerate(pieces):
                z, masked, _ = self._logits(piece, index * PIECE, first_class)
                highest = jnp.maximum(highest, jnp.where(masked, LOWEST, z).max(axis=1))
            top, total = highest, total * jnp.exp2(top - highest)
        for index, piece in enumerate(pieces):
            z, masked, _ = self._logits(piece, index * PIECE, first_class)
            z = z - (across(top) if self.plan.shift is None else self.plan.shift)
            total = total + jnp.where(masked, 0.0, jnp.exp2(z)).sum(axis=1)
        return top, total

    def _write_tile(self, turn: Any, carry: None) -> None:
        """Writes the gradients of one tile, centre by centre."""
        plan, first_class = self.plan, self._first_class(turn)
        best = self._nearest(turn, first_class) if plan.num_centers > 1 else []

        def write_center(center: Any, best: list[Array]) -> list[Array]:
            sums = self._product((turn + 1) * plan.products - plan.num_centers + center, center, first_class)
            # One branch for all pieces: with a branch for each, more registers would be spilled.
            write = functools.partial(self._write_center, sums, center, first_class)
            return lax.cond(first_class < plan.num_classes, write, lambda best: best, best)

        if plan.num_centers == 1:
            write_center(0, best)
        else:
            lax.fori_loop(0, plan.num_centers, write_center, best)

    def _write_center(self, sums: Array, center: Any, first_class: Any, best: list[Array]) -> list[Array]:
        """Writes the gradients of a tile's products with one centre, and returns `best` for the next centre.

        A class whose nearest centre has been met gets ∞ in `best`, which no later centre reaches: of equally near
        centres the first gets all of the gradient.
        """
        best = list(best)
        for index in range(self.plan.tile // PIECE):
            start = index * PIECE
            inverse_lengths = self._lengths(start)
            scaled = sums[:, start : start + PIECE] * inverse_lengths
            z, masked, slopes = self._logits(scaled, start, first_class)
            dz = jnp.exp2(z - across(self.exponent)) * inverse_lengths
            dz = dz if slopes is None else dz * slopes
            if best:
                is_farther = scaled != best[index]
                best[index] = jnp.where(is_farther, best[index], jnp.inf)
                masked = masked | is_farther
            self._store(jnp.where(masked, 0.0, dz), index, center * self.plan.num_classes + first_class + start)
        return best

    def _store(self, dz: Array, index: int, first_column: Any) -> None:
        """Writes the index-th piece of a tile's gradients in bfloat16; a second part takes the rounding error."""
        for part, out in enumerate(self.outs):
            staged = self.memory.out_s.at[self.warpgroup, (index * self.plan.dz_parts + part) % 2]
            plgpu.wait_smem_to_gmem(1, wait_read_only=True)  # the copy before the last one, which was staged here
            staged[...] = dz.astype(jnp.bfloat16)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(staged, out.at[self.here, pl.ds(first_column, PIECE)])
            dz = dz - dz.astype(jnp.bfloat16).astype(jnp.float32)

    def _nearest(self, turn: Any, first_class: Any) -> list[Array]:
        """Returns x·ŵ of the nearest centre of each class of a tile, piece by piece."""
        plan = self.plan
        if plan.num_centers == 1:
            return self._scaled_pieces(turn, 0, first_class)

        def compare(center: Any, best: list[Array]) -> list[Array]:
            pieces = self._scaled_pieces(turn * plan.products + center, center, first_class)
            return [jnp.maximum(*both) for both in zip(best, pieces, strict=True)]

        least = plgpu.layout_cast(jnp.full((ROWS, PIECE), LOWEST, jnp.float32), plgpu.Layout.WGMMA)
        return list(lax.fori_loop(0, plan.num_centers, compare, [least] * (plan.tile // PIECE)))

    def _scaled_pieces(self, n: Any, center: Any, first_class: Any) -> list[Array]:
        sums = self._product(n, center, first_class)
        return [sums[:, start : start + PIECE] * self._lengths(start) for start in range(0, self.plan.tile, PIECE)]

    def _product(self, n: Any, center: Any, first_class: Any) -> Array:
        """Returns x·w of this warpgroup's n-th tile, and copies 1/‖w‖ to shared memory meanwhile."""
        memory, plan = self.memory, self.plan
        plgpu.commit_smem()  # all reads of the previous product are done
        start = center * (self.inverse_w.shape[0] // plan.num_centers) + first_class
        lengths_s = memory.vector_s.at[self.warpgroup, pl.ds(0, plan.tile)]
        lengths_here = memory.vector_here.at[self.warpgroup]
        plgpu.copy_gmem_to_smem(self.inverse_w.at[pl.ds(start, plan.tile)], lengths_s, lengths_here)
        plgpu.barrier_wait(memory.turn.at[self.warpgroup])
        accumulator = plgpu.WGMMAAccumulatorRef((ROWS, plan.tile), jnp.float32)
        result = pl.run_scoped(functools.partial(self._accumulate, n), accumulator)
        plgpu.barrier_arrive(memory.empty.at[plan.slot(self.warpgroup, (n + 1) * plan.steps - 1)])
        plgpu.barrier_wait(lengths_here)
        return result

    def _accumulate(self, n: Any, sums: Any) -> Array:
        """Takes the steps of the n-th product; once all are issued, it is the other warpgroup's turn."""
        memory, plan = self.memory, self.plan

        def step(k: Any, carry: None) -> None:
            slot = plan.slot(self.warpgroup, n * plan.steps + k)
            plgpu.barrier_wait(memory.full.at[slot])
            plgpu.wgmma(sums, memory.x_s.at[plan.x_buffer(k, slot)], memory.w_s.at[slot].transpose((1, 0)))
            plgpu.wgmma_wait(1)  # the previous step is done, so its buffer may be filled again

            @pl.when(k > 0)
            def _() -> None:
                plgpu.barrier_arrive(memory.empty.at[plan.slot(self.warpgroup, n * plan.steps + k - 1)])

        lax.fori_loop(0, plan.steps, step, None)
        plgpu.barrier_arrive(memory.turn.at[1 - self.warpgroup])
        return sums[...]

    def _lengths(self, start: int) -> Array:
        """Returns 1/‖w‖ of a piece, repeated for each row."""
        piece = self.memory.vector_s.at[self.warpgroup, pl.ds(start, PIECE)]
        return down(_load(piece, layout=plgpu.Layout.WGMMA.reduce(0)))

    def _logits(self, scaled: Array, start: int, first_class: Any) -> tuple[Array, Array, Array | None]:
        """Returns the logits z of a piece in base 2, the mask of logits that do not count, and f' unless it is 1."""
        column = plgpu.broadcasted_iota(jnp.int32, (ROWS, PIECE), 1, layout=plgpu.Layout.WGMMA)
        is_own = column == across(self.labels - first_class - start)
        masked = is_own | (column >= self.plan.num_valid - first_class - start)
        z, slopes = scaled * across(self.rate), None
        if self.plan.is_hard:
            is_hard, share = z > across(self.threshold), z * self.inverse_q
            slopes = jnp.where(is_hard, self.t + 2 * share, 1.0)
            z = jnp.where(is_hard, z * (self.t + share), z)
        return z, masked, slopes
