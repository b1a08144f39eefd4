"""The kernels of `pallas_tpu`: matrix products whose results stay in a TPU core's memory (VMEM) until an epilogue.

Each step of a grid multiplies a block of rows by a block of classes. Sums along the inner dimension stay in VMEM until
they are complete. There are three kernels: the sums of exponentials, the gradient of the rows (the inner dimension is
the classes), and the gradient of the classes (the inner dimension is the rows). Each recomputes the cosines, so that
no array of N × C numbers is ever written.

The last block of classes may reach beyond the last class. Values read there are undefined (NaN when interpreted), so
they are masked in every sum and as factors. Values written there are dropped.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from kernels.margin_softmax.tpu_plan import LANES

NOTHING = -1e29  # the maximum before any logit has counted, below all that do; −∞ would give ∞ − ∞
MASKED = -1e30  # the value of a logit that does not count: e^(MASKED − NOTHING) is 0


@dataclasses.dataclass(frozen=True)
class TpuKernels:
    """The launches for C classes, in blocks of `rows` × `classes`, within `vmem` bytes.

    The operands are x [N, D], in whole blocks; labels [N, 1] int32; numbers [N, P] float32; w [K, C, D], padded to one
    block if it has fewer classes; and the inverse lengths of w, [K, C], padded by zeros to whole blocks. The columns of
    `numbers` are s over the lengths of x; for hard negatives s·threshold, t and 1/s; and for the gradients the factor
    and the exponent. `interpret` has a CPU interpret the kernels.
    """

    num_classes: int
    rows: int
    classes: int
    is_hard: bool
    vmem: int
    interpret: Any

    def log_sum(self, *operands: Array) -> Float[Array, "N 1"]:
        """L_i = log Σ_{j≠y_i} exp(s·f(c_ij)), −∞ where nothing counts."""
        x = operands[0]
        partial_sums = pltpu.VMEM((self.rows, LANES), jnp.float32)
        out = (len(x), 1), jnp.float32, (self.rows, 1), lambda row, _: (row, 0)
        return self._launch(self._add, operands, out, [partial_sums, partial_sums])

    def of_rows(self, *operands: Array) -> Float[Array, "N D"]:
        """Σ_j dz_ij·w_j, with dz_ij = factor_i·f'(c_ij)·exp(s·f(c_ij) − exponent_i)/‖w_j‖ for j ≠ y_i."""
        x = operands[0]
        out = x.shape, jnp.float32, (self.rows, x.shape[1]), lambda row, _: (row, 0)
        return self._launch(self._add_of_rows, operands, out, [])

    def of_classes(self, *operands: Array) -> Float[Array, "K C D"]:
        """Σ_i dz_ij·x_i less its part along w_j, in the dtype of w."""
        w = operands[3]
        block = (w.shape[0], self.classes, w.shape[2])
        out = w.shape, w.dtype, block, lambda _, block: (0, block, 0)
        return self._launch(self._add_of_classes, operands, out, [pltpu.VMEM(block, jnp.float32)], classes_outside=True)

    def _launch(
        self,
        body: Callable[..., None],
        operands: Sequence[Array],
        out: tuple[tuple[int, ...], Any, tuple[int, ...], Callable[..., tuple[Any, ...]]],
        scratch: list[Any],
        classes_outside: bool = False,
    ) -> Array:
        """`out` has the result's shape and dtype, a block's shape, and its index as a function of (row, class) block.

        The steps of the outer loop are independent, so that a TPU with two cores can share them.
        """

        def block(shape: tuple[int, ...], index: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
            return pl.BlockSpec(shape, (lambda block, row: index(row, block)) if classes_outside else index)

        x, _, numbers, w, _ = operands
        blocks = len(x) // self.rows, pl.cdiv(self.num_classes, self.classes)
        shape, dtype, out_block, index = out
        launch = pl.pallas_call(
            body,
            grid=blocks[::-1] if classes_outside else blocks,
            in_specs=[
                block((self.rows, x.shape[1]), lambda row, _: (row, 0)),
                block((self.rows, 1), lambda row, _: (row, 0)),
                block((self.rows, numbers.shape[1]), lambda row, _: (row, 0)),
                block((w.shape[0], self.classes, w.shape[2]), lambda _, block: (0, block, 0)),
                block((w.shape[0], self.classes), lambda _, block: (0, block)),
            ],
            out_specs=block(out_block, index),
            out_shape=jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type),
            scratch_shapes=scratch,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=self.vmem
            ),
            interpret=self.interpret,
            name=f"margin_softmax{body.__name__}",
        )
        return launch(*operands)

    def _add(self, x: Any, labels: Any, numbers: Any, w: Any, inverse_w: Any, out: Any, top: Any, total: Any) -> None:
        """The largest logit and the sum of exponentials of each lane; the last step combines the lanes."""
        step = pl.program_id(1)

        @pl.when(step == 0)
        def _() -> None:
            top[...] = jnp.full_like(top, NOTHING)
            total[...] = jnp.zeros_like(total)

        nearest = functools.reduce(jnp.maximum, _cosines(x, numbers, w, inverse_w))
        logits = jnp.where(self._masked(step, labels), MASKED, self._logits(nearest, numbers)[0])
        pieces = [logits[:, lo : lo + LANES] for lo in range(0, self.classes, LANES)]
        highest = functools.reduce(jnp.maximum, pieces, top[...])
        added = sum((jnp.exp(piece - highest) for piece in pieces[1:]), jnp.exp(pieces[0] - highest))
        total[...] = total[...] * jnp.exp(top[...] - highest) + added
        top[...] = highest

        @pl.when(step == pl.num_programs(1) - 1)
        def _() -> None:
            highest = top[...].max(axis=1, keepdims=True)
            sums = (total[...] * jnp.exp(top[...] - highest)).sum(axis=1, keepdims=True)
            out[...] = jnp.where(sums == 0, -jnp.inf, highest + jnp.log(jnp.where(sums == 0, 1, sums)))

    def _add_of_rows(self, x: Any, labels: Any, numbers: Any, w: Any, inverse_w: Any, out: Any) -> None:
        step, last = pl.program_id(1), pl.num_programs(1) - 1

        @pl.when(step == 0)
        def _() -> None:
            out[...] = jnp.zeros_like(out)

        of_products = self._of_products(step, x, labels, numbers, w, inverse_w)

        def add(weights: Callable[[int], Array]) -> None:
            for center, dz in enumerate(of_products):
                out[...] += _product(dz, weights(center), (1, 0), (x, w))

        def within(center: int) -> Array:
            """Zeros beyond the last class: an undefined value, even times 0, may be NaN."""
            here = step * self.classes + lax.broadcasted_iota(jnp.int32, w.shape[1:], 0) < self.num_classes
            return jnp.where(here, w[center].astype(jnp.float32), 0).astype(w.dtype)

        if self._is_ragged:
            pl.when(step < last)(lambda: add(lambda center: w[center]))
            pl.when(step == last)(lambda: add(within))
        else:
            add(lambda center: w[center])

    def _add_of_classes(self, x: Any, labels: Any, numbers: Any, w: Any, inverse_w: Any, out: Any, sums: Any) -> None:
        block, step = pl.program_id(0), pl.program_id(1)

        @pl.when(step == 0)
        def _() -> None:
            sums[...] = jnp.zeros_like(sums)

        for center, dz in enumerate(self._of_products(block, x, labels, numbers, w, inverse_w)):
            sums[center] += _product(dz, x[...], (0, 0), (x, w))

        @pl.when(step == pl.num_programs(1) - 1)
        def _() -> None:
            for center in range(w.shape[0]):
                weights, gradient = w[center].astype(jnp.float32), sums[center]
                squares = (weights * weights).sum(axis=1, keepdims=True)
                along = (gradient * weights).sum(axis=1, keepdims=True)
                is_zero = squares == 0
                along = jnp.where(is_zero, 0, along / jnp.where(is_zero, 1, squares))
                out[center] = (gradient - along * weights).astype(out.dtype)

    def _of_products(self, block: Any, x: Any, labels: Any, numbers: Any, w: Any, inverse_w: Any) -> list[Array]:
        """dz, the gradient of the products x·w, centre by centre."""
        cosines = _cosines(x, numbers, w, inverse_w)
        nearest = functools.reduce(jnp.maximum, cosines)
        logits, slopes = self._logits(nearest, numbers)
        exponent_at = numbers.shape[1] - 1
        factor, exponent = numbers[:, exponent_at - 1 : exponent_at], numbers[:, exponent_at:]
        rest = factor * jnp.exp(logits - exponent)
        rest = jnp.where(self._masked(block, labels), 0, rest if slopes is None else rest * slopes)
        if len(cosines) == 1:
            return [rest * inverse_w[...]]
        of_products = []
        for center, cosine in enumerate(cosines):  # of equally near ones the first gets the whole gradient
            of_products.append(jnp.where(cosine == nearest, rest, 0) * inverse_w[center : center + 1])
            rest = jnp.where(cosine == nearest, 0, rest)
        return of_products

    def _logits(self, cosines: Array, numbers: Any) -> tuple[Array, Array | None]:
        """z = s·f(c) of s·c, and f'(c) where f is not the identity."""
        if not self.is_hard:
            return cosines, None
        threshold, t, inverse_scale = numbers[:, 1:2], numbers[:, 2:3], numbers[:, 3:4]
        hard, share = cosines > threshold, cosines * inverse_scale
        return jnp.where(hard, cosines * (t + share), cosines), jnp.where(hard, t + 2 * share, 1)

    def _masked(self, block: Any, labels: Any) -> Array:
        """Whether a column is the row's own class, or lies beyond the last class."""
        column = block * self.classes + lax.broadcasted_iota(jnp.int32, (self.rows, self.classes), 1)
        is_own = column == labels[...]
        return is_own | (column >= self.num_classes) if self._is_ragged else is_own

    @property
    def _is_ragged(self) -> bool:
        return self.num_classes % self.classes != 0


def _cosines(x: Any, numbers: Any, w: Any, inverse_w: Any) -> list[Array]:
    """s·cos θ between a block of rows and a block of classes, one array a centre."""
    inverse_x = numbers[:, 0:1]
    return [
        _product(x[...], w[center], (1, 1), (x, w)) * inverse_x * inverse_w[center : center + 1]
        for center in range(w.shape[0])
    ]


def _product(a: Array, b: Array, along: tuple[int, int], operands: tuple[Any, Any]) -> Array:
    """Operands are cast to bfloat16 if both x and w are bfloat16, else to float32; the sum is float32."""
    narrow = all(operand.dtype == jnp.bfloat16 for operand in operands)
    dtype = jnp.bfloat16 if narrow else jnp.float32
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((along[0],), (along[1],)), ((), ())),
        precision=lax.Precision.DEFAULT if narrow else lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
