"""On Hopper GPUs, by Mosaic GPU: the cosines are computed on the chip, forward and backward, and never leave it.

The forward pass writes only sums. The backward pass writes dZ, the gradient of the products x·w, for one chunk of
classes at a time: N × chunk numbers in bfloat16. Two matrix products by XLA turn dZ into the gradients of x and w.

The operands are the embeddings and class weights as given; their lengths scale the products to cosines afterwards. For
bfloat16 inputs all products are exact and summed in float32. Only dZ is rounded, by at most 2⁻⁸ of each number.

The tensor cores round float32 to 11 bits, so a float32 array is multiplied in two parts, h = bfloat16(v) and
l = bfloat16(v − h), with |l| ≤ 2⁻⁸|v| and |v − h − l| ≤ 2⁻¹⁷|v|, and x·w is h·h + h·l + l·h. The error relative to
‖x‖‖w‖ is at most 2⁻¹⁷ for the rest of x, 2⁻¹⁷ for the rest of w, and 2⁻¹⁶ for l·l. So a cosine is off by at most 2⁻¹⁵,
and a loss by s times that, 2e-3 at s = 64. Only the worst vectors reach this bound: with independent roundings the
error is smaller by √D or more, under 1e-4 at s = 64 and D = 100. dZ is in two parts as well.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float

from kernels.margin_softmax import streamed
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.geometry import inverse_lengths, inverse_lengths_in_range, without_radial
from kernels.margin_softmax.hopper_plan import HopperPlan
from kernels.margin_softmax.streamed import Rows
from kernels.varying import varying_like

if TYPE_CHECKING:
    from kernels.margin_softmax.mosaic_gpu import HopperKernel

OLDEST_JAX = (0, 11)  # older ones cannot interpret Mosaic GPU, so nothing was tested with them
SAFE_EXPONENT = 87.0  # e^±87 is a normal number in float32
TILE_ROWS = 8  # TMA fetches whole ones
LONGEST = 4096  # the largest D that has been compiled


def margin_softmax(embeddings: Array, class_weights: Array, *args: Any, **options: Any) -> Float[Array, "N"]:
    """As `streamed.margin_softmax`, by `PallasGpu`.

    Raises:
      NotImplementedError: for JAX before 0.11, a GPU that is no Hopper, for other dtypes than float32 and bfloat16,
        and for D > 4096.
    """
    return streamed.margin_softmax(on_this_device(), embeddings, class_weights, *args, **options)


def on_this_device() -> "PallasGpu":
    if not _is_hopper():
        raise NotImplementedError("margin_softmax's implementation pallas_gpu runs on Hopper GPUs alone (H100, H200)")
    return PallasGpu()


def _is_hopper() -> bool:
    device = jax.devices()[0]
    return device.platform == "gpu" and getattr(device, "compute_capability", None) == "9.0"


@dataclasses.dataclass(frozen=True)
class PallasGpu:
    """`numbers`: the most elements of dZ to hold at once, of 2 bytes each; a chunk has at least 128 classes.

    The default keeps all temporaries within 250 MB at N = 4096 and D = 512, see `kernels.margin_softmax.aot`.
    """

    numbers: int = 36 * 2**20
    multiprocessors: int = 132  # of an H100 or H200: as many blocks run at once
    interpret: Any = None  # `plgpu.InterpretGPUParams()` to run on a CPU

    def log_sum(
        self, x: Float[Array, "N D"], w: Float[Array, "C K D"], rows: Rows, scale: Float[Array, ""], known: float | None
    ) -> Float[Array, "N"]:
        _refuse(x, w)
        vectors, rate = _parts(_whole_blocks(_whole_steps(x))), inverse_lengths(x) * _in_base_2(scale)
        shift = None if rows.hard is not None or known is None else _shift(known, w.shape[0])

        def add(chunk: Array, first: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            launch = self._kernel(vectors, chunk, rows, known, shift=shift)
            weights, inverse_w = _class_operands(chunk, launch)
            operands = _flat(vectors), _flat(weights), inverse_w, *_row_operands(rows, first, scale, rate)
            return _merged(*so_far, varying_like(launch(*operands)[0], x))

        nothing = varying_like(jnp.full(vectors.shape[1], -jnp.inf, jnp.float32), x)
        is_as_wanted = len(w) % TILE_ROWS == 0 and w.shape[1] == 1 and w.shape[2] == vectors.shape[2]
        needs_copy = w.dtype != jnp.bfloat16 or not is_as_wanted
        size = self._chunk_size(vectors, w) if needs_copy else w.shape[0]
        top, total = _over_chunks(w, size, add, (nothing, jnp.zeros_like(nothing)))
        log_sum = jnp.where(total == 0, -jnp.inf, (top + jnp.log2(jnp.where(total == 0, 1, total))) * math.log(2))
        return log_sum[: len(x)]

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
        _refuse(x, w)
        vectors, inverse_x = _parts(_whole_blocks(_whole_steps(x))), inverse_lengths(x)
        rate, factor = inverse_x * _in_base_2(scale), cotangent * scale * inverse_x
        # |factor|·exp(s·f − L) = 2^(z − exponent). The sign goes to the rows of x: the kernel keeps one vector fewer.
        exponent = (log_sum - jnp.log(jnp.abs(factor))) / math.log(2)
        exponent = jnp.where((log_sum == -jnp.inf) | (factor == 0), jnp.inf, exponent)
        sign = _whole_blocks(jnp.where(factor < 0, -1.0, 1.0))[:, None]
        signed = vectors * sign[None].astype(vectors.dtype)

        def add(chunk: Array, first: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            dx, dw = so_far
            num_classes, num_centers, length = chunk.shape
            launch = self._kernel(vectors, chunk, rows, known, backward=True)
            weights, inverse_w = _class_operands(chunk, launch)
            operands = _flat(vectors), _flat(weights), inverse_w, *_row_operands(rows, first, scale, rate, exponent)
            dz = [varying_like(part, x) for part in launch(*operands)]
            dx = dx + _product("nc,cd->nd", dz, weights)
            of_weights = _product("nc,nd->cd", dz, signed).reshape(num_centers, -1, launch.length)
            of_weights = of_weights[:, :num_classes, :length].swapaxes(0, 1)
            dw_chunk = without_radial(of_weights, chunk.astype(jnp.float32), inverse_w[:, :num_classes].T)
            dw_chunk = dw_chunk.astype(dw.dtype).reshape(num_classes, -1)
            return dx, lax.dynamic_update_slice_in_dim(dw, dw_chunk, first, 0)

        zeros = jnp.zeros(vectors.shape[1:], jnp.float32), jnp.zeros((w.shape[0], w.shape[1] * w.shape[2]), w.dtype)
        zeros = varying_like(zeros[0], x), varying_like(zeros[1], x)
        dx, dw = _over_chunks(w, self._chunk_size(vectors, w), add, zeros)
        dx = (sign * dx)[: len(x), : x.shape[1]]
        dx = without_radial(dx, x.astype(jnp.float32), inverse_x)
        return dx.astype(x.dtype), dw.reshape(w.shape)

    def slope(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: Float[Array, ""],
        log_sum: Float[Array, "N"],
    ) -> Float[Array, "N"]:
        return Chunked().slope(x, w, rows, scale, log_sum)

    def _kernel(
        self,
        vectors: Array,
        chunk: Array,
        rows: Rows,
        known: float | None,
        backward: bool = False,
        shift: float | None = None,
    ) -> "HopperKernel":
        from kernels.margin_softmax.mosaic_gpu import HopperKernel  # here, as its import is slow

        num_valid, num_centers, _ = chunk.shape
        multiple = 128 if backward or num_centers > 1 else TILE_ROWS
        return HopperKernel(
            num_rows=vectors.shape[1],
            x_parts=len(vectors),
            w_parts=_num_parts(chunk),
            length=vectors.shape[2],
            num_classes=-(-num_valid // multiple) * multiple,
            num_centers=num_centers,
            num_valid=num_valid,
            is_hard=rows.hard is not None,
            known_scale=known,
            backward=backward,
            shift=shift,
            multiprocessors=self.multiprocessors,
            interpret=self.interpret,
        )

    def _chunk_size(self, vectors: Array, w: Array) -> int:
        """The number of classes that keeps dZ, the copied class weights and their gradients small."""
        num_parts, num_rows, length = vectors.shape
        a_class = w.shape[1] * max(max(num_parts, _num_parts(w)) * num_rows, 8 * length)
        return max(self.numbers // a_class // 128 * 128, 128)


def _refuse(x: Array, w: Array) -> None:
    if jax.__version_info__ < OLDEST_JAX:
        raise NotImplementedError(f"pallas_gpu takes JAX 0.11 or later, not {jax.__version__}")
    for dtype in (x.dtype, w.dtype):
        if dtype not in (jnp.float32, jnp.bfloat16):
            raise NotImplementedError(f"pallas_gpu takes float32 and bfloat16, not {dtype}")
    if x.shape[1] > LONGEST:
        raise NotImplementedError(f"pallas_gpu takes embeddings of length {LONGEST} at most, not {x.shape[1]}")


def _shift(scale: float, num_classes: int) -> float | None:
    """A base-2 shift with which no sum of exp(s·c) overflows or vanishes; None where there is none."""
    shift = max(0.0, scale + math.log(num_classes) - SAFE_EXPONENT)
    return shift / math.log(2) if scale + shift <= SAFE_EXPONENT else None


def _over_chunks(w: Float[Array, "C K D"], size: int, add: Callable[..., Any], so_far: Any) -> Any:
    """Folds `add`(chunk of w, its first class, so far) over the classes."""
    num_classes, num_centers, length = w.shape
    flat = w.reshape(num_classes, -1)  # one layout: otherwise XLA might copy all of w to separate the centres

    def one(first: Array | int, size: int, so_far: Any) -> Any:
        chunk = lax.dynamic_slice_in_dim(flat, first, size)
        # Without the barrier XLA would fuse the slice into the kernel's call, and convert all of w before the loop.
        return add(lax.optimization_barrier(chunk).reshape(size, num_centers, length), first, so_far)

    if num_classes <= size:
        return add(w, 0, so_far)
    whole, rest = divmod(num_classes, size)
    so_far = lax.fori_loop(0, whole, lambda i, so_far: one(i * size, size, so_far), so_far)
    return one(whole * size, rest, so_far) if rest else so_far


def _merged(top: Array, total: Array, parts: Float[Array, "P 2 N"]) -> tuple[Array, Array]:
    """Adds parts, each a sum Σ 2^(z − shift) with its own shift, to the sum Σ 2^(z − top) so far."""
    highest = jnp.maximum(top, parts[:, 0].max(axis=0))
    added = (parts[:, 1] * jnp.exp2(parts[:, 0] - highest[None])).sum(axis=0)
    return highest, total * jnp.exp2(top - highest) + added


def _whole_steps(vectors: Float[Array, "*batch D"]) -> Array:
    return jnp.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, -vectors.shape[-1] % 64)])


def _whole_blocks(rows: Array) -> Array:
    return jnp.pad(rows, [(0, -len(rows) % 128)] + [(0, 0)] * (rows.ndim - 1))


def _num_parts(array: Array) -> int:
    return len(jax.eval_shape(_parts, array))


def _parts(array: Array) -> BFloat16[Array, "P ..."]:
    """Each number rounded to bfloat16, and for float32 the remainder in bfloat16 too."""
    if array.dtype == jnp.bfloat16:
        return array[None]
    high = lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)  # XLA may drop a conversion
    return jnp.stack([high.astype(jnp.bfloat16), (array - high).astype(jnp.bfloat16)])


def _flat(parts: Float[Array, "P M D"]) -> Float[Array, "PM D"]:
    return parts.reshape(-1, parts.shape[2])


def _product(subscripts: str, a: Sequence[Array], b: BFloat16[Array, "P ..."]) -> Float[Array, "..."]:
    """The sum in float32 of the products of all parts, except low part times low part."""
    pairs = [(of_a, of_b) for i, of_a in enumerate(a) for j, of_b in enumerate(b) if i == 0 or j == 0]
    products = (jnp.einsum(subscripts, *pair, preferred_element_type=jnp.float32) for pair in pairs)
    return functools.reduce(jnp.add, products)


def _class_operands(
    chunk: Float[Array, "C K D"], launch: HopperPlan
) -> tuple[BFloat16[Array, "P KC_whole D_whole"], Float[Array, "K C_whole"]]:
    """Class weights in parts, one centre after the other, and their inverse lengths."""
    weights, inverse = _whole_steps(chunk), inverse_lengths_in_range(chunk)
    missing = launch.num_classes - len(chunk)
    weights = jnp.pad(weights, ((0, missing), (0, 0), (0, 0))).swapaxes(0, 1).reshape(-1, launch.length)
    return _parts(weights), jnp.pad(inverse, ((0, missing), (0, 0))).T


def _row_operands(
    rows: Rows, first: Array | int, scale: Float[Array, ""], rate: Float[Array, "N"], *vectors: Float[Array, "N"]
) -> list[Array]:
    """The rows' operands of `HopperKernel`: labels relative to the chunk, and vectors."""
    if rows.hard is None:
        return [_whole_blocks(row) for row in (rows.labels - first, rate, *vectors)]
    q = _in_base_2(scale)
    operands = rows.labels - first, rate, rows.hard.threshold * q, *vectors
    return [*map(_whole_blocks, operands), jnp.stack([rows.hard.t, 1 / q])]


def _in_base_2(scale: Float[Array, ""]) -> Float[Array, ""]:
    """q = s/ln 2, with exp(s·c) = 2^(q·c)."""
    return scale / math.log(2)
