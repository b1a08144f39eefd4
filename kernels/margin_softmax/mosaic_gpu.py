"""The kernel of `pallas_gpu`, for Hopper: a matrix product of which only an epilogue leaves the chip.

A block has 128 rows of the embeddings and a share of the classes. Three warpgroups: one only fetches class weights
(TMA), into a ring of buffers for each of the other two, which multiply (wgmma) tile by tile, in turns, so that the
exponentials of one are computed while the tensor cores work for the other. The embeddings stay in shared memory; where
they are too long for that, they are fetched along with each tile of class weights.

A tile's 128 × 128 sums are 128 registers of each thread, of the 168 that it has. With sub-centres two tiles are alive,
the nearest so far and the next, so that they are half as wide; backward each product is computed once to find the
nearest and once more to write the gradients.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, BFloat16, Float

from kernels.margin_softmax.hopper_layout import across, down, transforms
from kernels.margin_softmax.hopper_plan import PIECE, ROWS, STEP, Plan

LOWEST = -1e30  # below every logit; −∞ would give ∞ − ∞

_load: Any = plgpu.load  # typed otherwise from one JAX to the next


@dataclasses.dataclass(frozen=True)
class Kernel(Plan):
    """One launch, as planned."""

    def __call__(
        self, x: BFloat16[Array, "PN D"], w: BFloat16[Array, "PKC D"], inverse_w: Float[Array, "K C"], *rows: Array
    ) -> tuple[Array, ...]:
        """Of x and w, part after part, and the inverse lengths of w; no cosine is computed outside.

        `rows` are vectors [N]: labels (int32), 1/‖x‖, of hard negatives their threshold, and backward b, float32; and
        of hard negatives t, as [1], after them.

        Returns:
          Forward, float32 [shares, 2, N]: of each share of the classes a base-2 shift m, and Σ 2^(z − m) over classes
          but the row's own, with z = scale·f(cos θ)/ln 2. Backward, bfloat16 [N, K·C]: f'(cos θ)·2^(z − b)/‖w‖, 0 for
          the row's own class and for all but the nearest centre of one; in two such parts if x or w is.
        """
        columns = self.splits * self.turns * 2 * self.tile
        inverse_w = jnp.pad(inverse_w, ((0, 0), (0, columns - inverse_w.shape[1]))).reshape(-1)
        if self.backward:
            part = jax.ShapeDtypeStruct((self.num_rows, self.num_centers * self.num_classes), jnp.bfloat16)
            out = (part,) * self.dz_parts
        else:
            out = (jax.ShapeDtypeStruct((2 * self.splits, 2, self.num_rows), jnp.float32),)
        scratch: dict[str, Any] = {
            "x_s": plgpu.SMEM((self.x_buffers, ROWS, STEP), jnp.bfloat16, transforms=transforms(STEP)),
            "w_s": plgpu.SMEM((2 * self.stages, self.tile, STEP), jnp.bfloat16, transforms=transforms(STEP)),
            "vector_s": plgpu.SMEM((2, ROWS), jnp.float32),
            "vector_here": plgpu.Barrier(num_barriers=2),
            "full": plgpu.Barrier(num_arrivals=1 if self.keeps_x else 2, num_barriers=2 * self.stages),
            "empty": plgpu.Barrier(num_barriers=2 * self.stages),
            "turn": plgpu.Barrier(num_barriers=2),
        }
        if self.keeps_x:
            scratch["x_here"] = plgpu.Barrier(num_arrivals=self.x_buffers)
        if self.backward:
            scratch["out_s"] = plgpu.SMEM((2, 2, ROWS, PIECE), jnp.bfloat16, transforms=transforms(PIECE))
        launch = plgpu.kernel(
            self._body,
            out_type=out,
            scratch_types=scratch,
            grid=(self.row_blocks, self.splits),
            grid_names=("rows", "split"),
            num_threads=3,
            thread_name="warpgroup",
            kernel_name="margin_softmax_gradients" if self.backward else "margin_softmax_sums",
            compiler_params=plgpu.CompilerParams(
                approx_math=True,  # 2^z in the special-function units, to 2 ulp
                reduction_scratch_bytes=0,  # sums along rows stay within a warp
                lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
            ),
            **({} if self.interpret is None else {"interpret": self.interpret}),
        )
        return launch(x, w, inverse_w, *rows)

    def _body(self, x: Any, w: Any, inverse_w: Any, *rest: Any, **scratch: Any) -> None:
        num_outs = self.dz_parts if self.backward else 1
        rows, outs = rest[:-num_outs], rest[-num_outs:]
        warpgroup = lax.axis_index("warpgroup")
        pl.when(warpgroup < 2)(lambda: self._compute(x, inverse_w, rows, outs, warpgroup, **scratch))
        pl.when(warpgroup == 2)(lambda: self._fetch(x, w, **scratch))

    def _fetch(self, x: Any, w: Any, *, x_s: Any, w_s: Any, full: Any, empty: Any, **_: Any) -> None:
        """What is multiplied, in that order: for a product of one warpgroup, for one of the other."""
        first_tile = lax.axis_index("split") * (self.turns * 2)

        def fetch(number: Any, carry: None) -> None:
            turn, center = lax.div(number, jnp.int32(self.products)), lax.rem(number, jnp.int32(self.num_centers))
            for warpgroup in range(2):
                first_row = center * self.num_classes + (first_tile + 2 * turn + warpgroup) * self.tile

                def step(k: Any, carry: None, warpgroup: int = warpgroup, first_row: Any = first_row) -> None:
                    n = number * self.steps + k
                    slot = self._slot(warpgroup, n)
                    pl.when(n >= self.stages)(lambda: plgpu.barrier_wait(empty.at[slot]))
                    of_x, (part, column) = self.operands(k)
                    weights = pl.ds(part * self.num_centers * self.num_classes + first_row, self.tile)
                    numbers = pl.ds(column * STEP, STEP)
                    plgpu.copy_gmem_to_smem(w.at[weights, numbers], w_s.at[slot], full.at[slot])
                    if not self.keeps_x:
                        plgpu.copy_gmem_to_smem(self._embeddings(x, *of_x), x_s.at[slot], full.at[slot])

                lax.fori_loop(0, self.steps, step, None)

        lax.fori_loop(0, self.turns * self.products, fetch, None)
        total = self.turns * self.products * self.steps
        for warpgroup in range(2):  # a barrier's every phase must be waited for, or an interpreter objects
            for n in range(max(0, total - self.stages), total):
                plgpu.barrier_wait(empty.at[self._slot(warpgroup, n)])

    def _embeddings(self, x: Any, part: Any, column: Any) -> Any:
        first_row = part * self.num_rows + lax.axis_index("rows") * ROWS
        return x.at[pl.ds(first_row, ROWS), pl.ds(column * STEP, STEP)]

    def _slot(self, warpgroup: Any, n: Any) -> Any:
        """The buffer of a warpgroup's n-th step."""
        return warpgroup * self.stages + lax.rem(jnp.int32(n), jnp.int32(self.stages))

    def _compute(
        self,
        x: Any,
        inverse_w: Any,
        row_refs: Sequence[Any],
        outs: Sequence[Any],
        warpgroup: Any,
        *,
        x_s: Any,
        w_s: Any,
        vector_s: Any,
        vector_here: Any,
        full: Any,
        empty: Any,
        turn: Any,
        x_here: Any = None,
        out_s: Any = None,
    ) -> None:
        split, first_row = lax.axis_index("split"), lax.axis_index("rows") * ROWS
        here = pl.ds(first_row, ROWS)

        if self.keeps_x:

            @pl.when(warpgroup == 0)
            def _() -> None:
                for buffer in range(self.x_buffers):
                    embeddings = self._embeddings(x, *divmod(buffer, self.x_buffers // self.x_parts))
                    plgpu.copy_gmem_to_smem(embeddings, x_s.at[buffer], x_here)

            plgpu.barrier_wait(x_here)
        along_rows = plgpu.Layout.WGMMA.reduce(1)
        *row_refs, t_ref = row_refs if self.is_hard else (*row_refs, None)
        rows = [_load(ref.at[here], layout=along_rows, optimized=False) for ref in row_refs]
        labels, inverse_x = rows[:2]
        t: Any = t_ref[0] if self.is_hard else None
        pl.when(warpgroup == 1)(lambda: plgpu.barrier_arrive(turn.at[0]))

        def product(n: Any, center: Any, first_class: Any) -> Array:
            """x·w of one tile, the n-th of this warpgroup, and 1/‖w‖ into shared memory meanwhile."""
            plgpu.commit_smem()  # what was read of the former one has been
            start = center * (inverse_w.shape[0] // self.num_centers) + first_class
            lengths_s = vector_s.at[warpgroup, pl.ds(0, self.tile)]
            plgpu.copy_gmem_to_smem(inverse_w.at[pl.ds(start, self.tile)], lengths_s, vector_here.at[warpgroup])
            plgpu.barrier_wait(turn.at[warpgroup])

            def accumulate(sums: Any) -> Array:
                def step(k: Any, carry: None) -> None:
                    slot = self._slot(warpgroup, n * self.steps + k)
                    plgpu.barrier_wait(full.at[slot])
                    plgpu.wgmma(sums, x_s.at[self.x_buffer(k, slot)], w_s.at[slot].transpose((1, 0)))
                    plgpu.wgmma_wait(1)  # the former step's is done, so that its buffer may be filled again

                    @pl.when(k > 0)
                    def _() -> None:
                        plgpu.barrier_arrive(empty.at[self._slot(warpgroup, n * self.steps + k - 1)])

                lax.fori_loop(0, self.steps, step, None)
                plgpu.barrier_arrive(turn.at[1 - warpgroup])
                return sums[...]

            result = pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((ROWS, self.tile), jnp.float32))
            plgpu.barrier_arrive(empty.at[self._slot(warpgroup, (n + 1) * self.steps - 1)])
            plgpu.barrier_wait(vector_here.at[warpgroup])
            return result

        def lengths(start: int) -> Array:
            piece = vector_s.at[warpgroup, pl.ds(start, PIECE)]
            return down(_load(piece, layout=plgpu.Layout.WGMMA.reduce(0)))

        def logits(scaled: Array, start: int, first_class: Any) -> tuple[Array, Array, Array | None]:
            """z, in base 2, of one piece of a tile; where it does not count; and f' if that is not 1 everywhere."""
            column = plgpu.broadcasted_iota(jnp.int32, (ROWS, PIECE), 1, layout=plgpu.Layout.WGMMA)
            masked = (column == across(labels - first_class - start)) | (column >= self.num_valid - first_class - start)
            cosines, slopes = scaled * across(inverse_x), None
            if self.is_hard:
                hard = cosines > across(rows[2])
                slopes = jnp.where(hard, t + 2 * cosines, 1.0)
                cosines = jnp.where(hard, cosines * (t + cosines), cosines)
            return cosines * (self.scale / math.log(2)), masked, slopes

        def scaled_pieces(n: Any, center: Any, first_class: Any) -> list[Array]:
            sums = product(n, center, first_class)
            return [sums[:, lo : lo + PIECE] * lengths(lo) for lo in range(0, self.tile, PIECE)]

        def nearest(i: Any, first_class: Any) -> list[Array]:
            """x·ŵ of the nearest centre of each class of a tile, piece by piece."""
            if self.num_centers == 1:
                return scaled_pieces(i, 0, first_class)

            def compare(center: Any, best: list[Array]) -> list[Array]:
                pieces = scaled_pieces(i * self.products + center, center, first_class)
                return [jnp.maximum(*both) for both in zip(best, pieces, strict=True)]

            least = plgpu.layout_cast(jnp.full((ROWS, PIECE), LOWEST, jnp.float32), plgpu.Layout.WGMMA)
            return lax.fori_loop(0, self.num_centers, compare, [least] * (self.tile // PIECE))

        def add(i: Any, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            top, total = so_far
            first_class = (split * (self.turns * 2) + 2 * i + warpgroup) * self.tile
            pieces = nearest(i, first_class)
            if self.shift is None:
                highest = top
                for index, piece in enumerate(pieces):
                    z, masked, _ = logits(piece, index * PIECE, first_class)
                    highest = jnp.maximum(highest, jnp.where(masked, LOWEST, z).max(axis=1))
                top, total = highest, total * jnp.exp2(top - highest)
            for index, piece in enumerate(pieces):
                z, masked, _ = logits(piece, index * PIECE, first_class)
                z = z - (across(top) if self.shift is None else self.shift)
                total = total + jnp.where(masked, 0.0, jnp.exp2(z)).sum(axis=1)
            return top, total

        def write(i: Any, carry: None) -> None:
            first_class = (split * (self.turns * 2) + 2 * i + warpgroup) * self.tile
            best = nearest(i, first_class) if self.num_centers > 1 else []

            def of_center(center: Any, best: list[Array]) -> list[Array]:
                sums = product((i + 1) * self.products - self.num_centers + center, center, first_class)

                def stage(best: list[Array]) -> list[Array]:
                    best = list(best)
                    for index in range(self.tile // PIECE):
                        inverse_lengths = lengths(index * PIECE)
                        scaled = sums[:, index * PIECE : (index + 1) * PIECE] * inverse_lengths
                        z, masked, slopes = logits(scaled, index * PIECE, first_class)
                        dz = jnp.exp2(z - across(rows[-1])) * inverse_lengths
                        dz = dz if slopes is None else dz * slopes
                        if best:
                            is_farther = scaled != best[index]
                            # Of equally near ones the first has all: what has been met is out of reach for the rest.
                            best[index] = jnp.where(is_farther, best[index], jnp.inf)
                            masked = masked | is_farther
                        dz = jnp.where(masked, 0.0, dz)
                        columns = pl.ds(center * self.num_classes + first_class + index * PIECE, PIECE)
                        for part, out in enumerate(outs):
                            staged = out_s.at[warpgroup, (index * self.dz_parts + part) % 2]
                            plgpu.wait_smem_to_gmem(1, wait_read_only=True)  # the last but one, which was staged here
                            staged[...] = dz.astype(jnp.bfloat16)
                            plgpu.commit_smem()
                            plgpu.copy_smem_to_gmem(staged, out.at[here, columns])
                            dz = dz - dz.astype(jnp.bfloat16).astype(jnp.float32)
                    return best

                # All of it in one branch: with one a piece, more registers would be spilled.
                return lax.cond(first_class < self.num_classes, stage, lambda best: best, best)

            if self.num_centers == 1:
                of_center(0, best)
            else:
                lax.fori_loop(0, self.num_centers, of_center, best)

        if self.backward:
            lax.fori_loop(0, self.turns, write, None)
        else:
            full_row = functools.partial(jnp.full, (ROWS,), dtype=jnp.float32)
            start = LOWEST if self.shift is None else self.shift
            top, total = (plgpu.layout_cast(full_row(value), along_rows) for value in (start, 0.0))
            for index, vector in enumerate(lax.fori_loop(0, self.turns, add, (top, total))):
                plgpu.wait_smem_to_gmem(0)
                vector_s[warpgroup] = vector
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(vector_s.at[warpgroup], outs[0].at[2 * split + warpgroup, index, here])
        pl.when(warpgroup == 0)(lambda: plgpu.barrier_wait(turn.at[0]))
        plgpu.wait_smem_to_gmem(0)
