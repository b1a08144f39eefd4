"""The kernel of `pallas_gpu`, for Hopper: a matrix product whose result stays on the chip until an epilogue.

A block has 128 rows of the embeddings and a share of the classes, and three warpgroups. One only fetches class weights
(TMA), into a ring of buffers for each of the other two. These multiply (wgmma) tile by tile and take turns: one
computes exponentials while the tensor cores work for the other (see `hopper_compute`). The embeddings stay in shared
memory. If they are too long for it, they are fetched again with each tile of class weights.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, BFloat16, Float

from kernels.margin_softmax.hopper_compute import Consumer, Memory
from kernels.margin_softmax.hopper_layout import transforms
from kernels.margin_softmax.hopper_plan import PIECE, ROWS, STEP, HopperPlan


@dataclasses.dataclass(frozen=True)
class HopperKernel(HopperPlan):
    """One launch, as planned."""

    def __call__(
        self, x: BFloat16[Array, "PN D"], w: BFloat16[Array, "PKC D"], inverse_w: Float[Array, "K C"], *rows: Array
    ) -> tuple[Array, ...]:
        """Of x and w, part after part, and the inverse lengths of w; no cosine is computed outside.

        With q = s/ln 2, logits are z = q·f(cos θ), in base 2. `rows` are vectors [N]: labels (int32), q/‖x‖, of hard
        negatives q·threshold, and backward b, float32; and of hard negatives (t, 1/q), as [2], after them.

        Returns:
          Forward, float32 [shares, 2, N]: of each share of the classes a base-2 shift m, and Σ 2^(z − m) over classes
          but the row's own. Backward, bfloat16 [N, K·C]: f'(cos θ)·2^(z − b)/‖w‖, 0 for the row's own class and for
          all but the nearest centre of one; in two such parts if x or w is.
        """
        columns = self.splits * self.turns * 2 * self.tile
        inverse_w = jnp.pad(inverse_w, ((0, 0), (0, columns - inverse_w.shape[1]))).reshape(-1)
        if self.backward:
            part = jax.ShapeDtypeStruct((self.num_rows, self.num_centers * self.num_classes), jnp.bfloat16)
            out = (part,) * self.dz_parts
        else:
            out = (jax.ShapeDtypeStruct((2 * self.splits, 2, self.num_rows), jnp.float32),)
        launch = plgpu.kernel(
            self._body,
            out_type=out,
            scratch_types=self._scratch(),
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
        return tuple(launch(x, w, inverse_w, *rows))

    def _scratch(self) -> dict[str, Any]:
        """Shared memory and barriers, by the names of `Memory`."""
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
        return scratch

    def _body(self, x: Any, w: Any, inverse_w: Any, *rest: Any, **scratch: Any) -> None:
        num_outs = self.dz_parts if self.backward else 1
        rows, outs = rest[:-num_outs], rest[-num_outs:]
        memory = Memory(**scratch)
        warpgroup = lax.axis_index("warpgroup")
        pl.when(warpgroup < 2)(lambda: self._compute(x, inverse_w, rows, outs, memory, warpgroup))
        pl.when(warpgroup == 2)(lambda: self._fetch(x, w, memory))

    def _compute(
        self, x: Any, inverse_w: Any, rows: Sequence[Any], outs: Sequence[Any], memory: Memory, warpgroup: Any
    ) -> None:
        if self.keeps_x:
            pl.when(warpgroup == 0)(lambda: self._fetch_embeddings(x, memory))
            plgpu.barrier_wait(memory.x_here)
        consumer = Consumer(self, memory, warpgroup, inverse_w, rows, outs)
        pl.when(warpgroup == 1)(lambda: plgpu.barrier_arrive(memory.turn.at[0]))
        if self.backward:
            consumer.write_gradients()
        else:
            consumer.write_sums()
        pl.when(warpgroup == 0)(lambda: plgpu.barrier_wait(memory.turn.at[0]))
        plgpu.wait_smem_to_gmem(0)

    def _fetch_embeddings(self, x: Any, memory: Memory) -> None:
        for buffer in range(self.x_buffers):
            embeddings = self._embeddings(x, *divmod(buffer, self.x_buffers // self.x_parts))
            plgpu.copy_gmem_to_smem(embeddings, memory.x_s.at[buffer], memory.x_here)

    def _fetch(self, x: Any, w: Any, memory: Memory) -> None:
        """Fetches operands in the order of their use, for the two warpgroups in turn."""
        first_tile = lax.axis_index("split") * (self.turns * 2)

        def fetch(number: Any, carry: None) -> None:
            turn, center = lax.div(number, jnp.int32(self.products)), lax.rem(number, jnp.int32(self.num_centers))
            for warpgroup in range(2):
                first_row = center * self.num_classes + (first_tile + 2 * turn + warpgroup) * self.tile

                def step(k: Any, carry: None, warpgroup: int = warpgroup, first_row: Any = first_row) -> None:
                    n = number * self.steps + k
                    slot = self.slot(warpgroup, n)
                    pl.when(n >= self.stages)(lambda: plgpu.barrier_wait(memory.empty.at[slot]))
                    of_x, (part, column) = self.operands(k)
                    weights = pl.ds(part * self.num_centers * self.num_classes + first_row, self.tile)
                    numbers = pl.ds(column * STEP, STEP)
                    plgpu.copy_gmem_to_smem(w.at[weights, numbers], memory.w_s.at[slot], memory.full.at[slot])
                    if not self.keeps_x:
                        plgpu.copy_gmem_to_smem(self._embeddings(x, *of_x), memory.x_s.at[slot], memory.full.at[slot])

                lax.fori_loop(0, self.steps, step, None)

        lax.fori_loop(0, self.turns * self.products, fetch, None)
        total = self.turns * self.products * self.steps
        for warpgroup in range(2):  # the interpreter demands a wait for every phase of a barrier
            for n in range(max(0, total - self.stages), total):
                plgpu.barrier_wait(memory.empty.at[self.slot(warpgroup, n)])

    def _embeddings(self, x: Any, part: Any, column: Any) -> Any:
        first_row = part * self.num_rows + lax.axis_index("rows") * ROWS
        return x.at[pl.ds(first_row, ROWS), pl.ds(column * STEP, STEP)]
