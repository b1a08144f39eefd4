"""On TPUs, by Mosaic: the cosines are computed on the chip, forward and backward, and never leave it.

The operands are the embeddings and class weights as given; their lengths scale the products to cosines afterwards. For
bfloat16 inputs all products are exact and summed in float32. Only the gradient of the products x·w is rounded, by 2⁻⁹
of each number. If either input is float32, the products are computed in float32, at the highest precision.

Beside the results, memory holds a few numbers for each row and class, and the gradient of x in float32. The kernels
take sub-centres one after the other, [K, C, D]. On a TPU, XLA stores an array [C, K, D] this way: nothing is copied.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.margin_softmax import streamed
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.geometry import inverse_lengths, inverse_lengths_in_range, without_radial
from kernels.margin_softmax.streamed import Rows
from kernels.margin_softmax.tpu_plan import LANES, block, whole

if TYPE_CHECKING:
    from kernels.margin_softmax.mosaic_tpu import TpuKernels

NEEDED = ("CompilerParams", "VMEM")  # names in `pltpu`, which change between versions of JAX
NEVER = 1e30  # an exponent that makes all of a row's terms zero


def margin_softmax(embeddings: Array, class_weights: Array, *args: Any, **options: Any) -> Float[Array, "N"]:
    """As `streamed.margin_softmax`, by `PallasTpu`.

    Raises:
      NotImplementedError: for a device that is no TPU, a JAX whose Pallas has other names, for other dtypes than
        float32 and bfloat16, and where a block of 128 rows and one of 128 classes are too large for VMEM.
    """
    return streamed.margin_softmax(on_this_device(), embeddings, class_weights, *args, **options)


def on_this_device() -> "PallasTpu":
    if jax.devices()[0].platform != "tpu":
        raise NotImplementedError("margin_softmax's implementation pallas_tpu runs on TPUs alone")
    return PallasTpu()


@dataclasses.dataclass(frozen=True)
class PallasTpu:
    """`rows` and `classes` are the largest block, in multiples of 128."""

    rows: int = 512
    classes: int = 512
    vmem: int = 48 * 2**20  # bytes, less than TPUs from the fifth generation on have
    interpret: Any = False  # True, or `pltpu.InterpretParams()`, to run on a CPU

    def log_sum(
        self, x: Float[Array, "N D"], w: Float[Array, "C K D"], rows: Rows, scale: Float[Array, ""], known: float | None
    ) -> Float[Array, "N"]:
        self._refuse(x, w)
        kernels = self._kernels(x, w, rows)
        return jnp.asarray(kernels.log_sum(*_operands(kernels, x, w, rows, scale, inverse_lengths(x)))[: len(x), 0])

    def gradients(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: Float[Array, ""],
        known: float | None,
        log_sum: Float[Array, "N"],
        cotangent: Float[Array, "N"],
    ) -> tuple[Float[Array, "N D"], Float[Array, "C K D"]]:
        self._refuse(x, w)
        inverse_x = inverse_lengths(x)
        factor = cotangent * scale * inverse_x
        exponent = jnp.where(log_sum == -jnp.inf, NEVER, log_sum)
        kernels = self._kernels(x, w, rows)
        operands = _operands(kernels, x, w, rows, scale, inverse_x, factor, exponent)
        dw = kernels.of_classes(*operands)[:, : len(w)].swapaxes(0, 1)
        dx = kernels.of_rows(*operands)[: len(x)]
        return without_radial(dx, x.astype(jnp.float32), inverse_x).astype(x.dtype), dw

    def slope(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: Float[Array, ""],
        log_sum: Float[Array, "N"],
    ) -> Float[Array, "N"]:
        return Chunked().slope(x, w, rows, scale, log_sum)

    def _kernels(self, x: Array, w: Array, rows: Rows) -> "TpuKernels":
        from kernels.margin_softmax.mosaic_tpu import TpuKernels  # here, as its import is slow

        num_rows, classes = block(self.rows, self.classes, self.vmem, x, w)
        num_blocks = max(-(-len(x) // num_rows), 1)  # of nearly equal size, so that little is padded
        return TpuKernels(
            num_classes=len(w),
            rows=whole(max(-(-len(x) // num_blocks), 1), 16),
            classes=min(classes, whole(len(w), LANES)),
            is_hard=rows.hard is not None,
            vmem=self.vmem,
            interpret=self.interpret,
        )

    def _refuse(self, x: Array, w: Array) -> None:
        from jax.experimental.pallas import tpu as pltpu

        if missing := [name for name in NEEDED if not hasattr(pltpu, name)]:
            raise NotImplementedError(f"pallas_tpu does not know JAX {jax.__version__}: it has no pltpu.{missing[0]}")
        for dtype in (x.dtype, w.dtype):
            if dtype not in (jnp.float32, jnp.bfloat16):
                raise NotImplementedError(f"pallas_tpu takes float32 and bfloat16, not {dtype}")
        block(self.rows, self.classes, self.vmem, x, w)


def _operands(
    kernels: "TpuKernels", x: Array, w: Array, rows: Rows, scale: Array, inverse_x: Array, *vectors: Array
) -> tuple[Array, ...]:
    """The operands of `TpuKernels`."""
    missing = whole(len(w), kernels.classes) - len(w)
    weights = w.swapaxes(0, 1)
    inverse_w = jnp.pad(inverse_lengths_in_range(weights), ((0, 0), (0, missing)))
    if len(w) < kernels.classes:
        weights = jnp.pad(weights, ((0, 0), (0, missing), (0, 0)))
    hard: list[Array] = []
    if rows.hard is not None:
        hard = [rows.hard.threshold * scale, *(jnp.broadcast_to(of, len(x)) for of in (rows.hard.t, 1 / scale))]
    numbers = jnp.stack([inverse_x * scale, *hard, *vectors], axis=1)
    padding = (0, whole(max(len(x), 1), kernels.rows) - len(x)), (0, 0)
    x, labels, numbers = (jnp.pad(array, padding) for array in (x, rows.labels[:, None], numbers))
    return x, labels, numbers, weights, inverse_w
