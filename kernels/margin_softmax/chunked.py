"""Classes in chunks, in plain XLA, for every platform: N × chunk numbers at a time, forward and backward.

Products are taken of embeddings and class weights as they are given, and scaled to cosines afterwards: of bfloat16
inputs they are exact then, where rounded unit vectors would be off by up to 2⁻⁸ before anything is multiplied by s.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.margin_softmax.geometry import SHORTEST, wide
from kernels.margin_softmax.streamed import Rows
from kernels.platform import is_cpu
from kernels.varying import varying_like


@dataclasses.dataclass(frozen=True)
class Chunked:
    """`numbers`: how many cosines are held at once, at most (a chunk is of at least 128 classes)."""

    numbers: int = 2**22

    def log_sum(self, x: Float[Array, "N D"], w: Float[Array, "C K D"], rows: Rows, scale: float) -> Float[Array, "N"]:
        inverse_x = inverse_lengths(x)

        def add(chunk: Array, first: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            largest, total = so_far
            cosines = _cosines(x, inverse_x, chunk, inverse_lengths(chunk))
            logits, _ = _logits(cosines, first, rows, scale)
            new_largest = jnp.maximum(largest, logits.max(axis=1))
            shift = jnp.where(new_largest == -jnp.inf, 0, new_largest)  # as long as nothing has counted
            rescaled = total * jnp.exp(largest - shift)
            return new_largest, rescaled + jnp.exp(logits - shift[:, None]).sum(axis=1)

        nothing = varying_like(jnp.full(len(x), -jnp.inf, inverse_x.dtype), x)
        largest, total = self._over_chunks(w, len(x), add, (nothing, jnp.zeros_like(nothing)))
        return jnp.where(total == 0, -jnp.inf, largest + jnp.log(jnp.where(total == 0, 1, total)))

    def gradients(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: float,
        log_sum: Float[Array, "N"],
        cotangent: Float[Array, "N"],
    ) -> tuple[Float[Array, "N D"], Float[Array, "C K D"]]:
        inverse_x = inverse_lengths(x)
        dtype = inverse_x.dtype
        unit_x = x.astype(dtype) * inverse_x[:, None]
        log_sum = jnp.where(log_sum == -jnp.inf, jnp.inf, log_sum)  # nothing has counted: its logits are −∞ as well

        def add(chunk: Array, first: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            dx, dw = so_far
            inverse_w = inverse_lengths(chunk)
            cosines = _cosines(x, inverse_x, chunk, inverse_w)
            logits, slopes = _logits(cosines, first, rows, scale)
            dc = (cotangent * scale)[:, None] * jnp.exp(logits - log_sum[:, None])  # 0 where a logit is −∞
            if slopes is not None:
                dc = dc * slopes
            to_each = _to_nearest(dc, cosines)
            dx = dx + _product("nck,ckd->nd", to_each * inverse_w[None], chunk)
            dw_chunk = _product("nck,nd->ckd", to_each, unit_x.astype(x.dtype))
            dw_chunk = without_radial(dw_chunk, chunk.astype(dtype), inverse_w) * inverse_w[..., None]
            return dx, lax.dynamic_update_slice_in_dim(dw, dw_chunk.astype(w.dtype), first, 0)

        zeros = varying_like(jnp.zeros(x.shape, dtype), x), varying_like(jnp.zeros(w.shape, w.dtype), x)
        dx, dw = self._over_chunks(w, len(x), add, zeros)
        dx = without_radial(dx, x.astype(dtype), inverse_x) * inverse_x[:, None]
        return dx.astype(x.dtype), dw

    def _over_chunks(self, w: Array, num_rows: int, add: Callable[..., Any], so_far: Any) -> Any:
        """Folds `add`(chunk of w, its first class, so far) over the classes; what a last chunk lacks is not padded."""
        num_classes, num_centers, _ = w.shape
        size = max(self.numbers // max(num_rows * num_centers, 1) // 128 * 128, 128)
        whole = num_classes // size if num_classes > size else 0

        def one(i: Array, so_far: Any) -> Any:
            first = i * size
            # Or XLA would normalise and transpose all of w at once, outside of the loop.
            chunk = lax.optimization_barrier(lax.dynamic_slice_in_dim(w, first, size))
            return add(chunk, first, so_far)

        so_far = lax.fori_loop(0, whole, one, so_far) if whole else so_far
        rest = num_classes - whole * size
        return add(w[whole * size :], whole * size, so_far) if rest else so_far


def _cosines(x: Array, inverse_x: Array, chunk: Array, inverse_w: Array) -> Float[Array, "N B K"]:
    return _product("nd,ckd->nck", x, chunk) * inverse_x[:, None, None] * inverse_w[None]


def _logits(
    cosines: Float[Array, "N B K"], first: Array | int, rows: Rows, scale: float
) -> tuple[Float[Array, "N B"], Float[Array, "N B"] | None]:
    """s·f(c) of a chunk of classes, −∞ for the rows' own ones and padding, and f'(c) where f is not the identity."""
    nearest, slopes = cosines.max(axis=2), None
    if rows.hard is not None:
        is_hard = nearest > rows.hard.threshold[:, None]
        slopes = jnp.where(is_hard, rows.hard.t + 2 * nearest, 1)
        nearest = jnp.where(is_hard, nearest * (rows.hard.t + nearest), nearest)
    own = rows.labels - first
    classes = jnp.arange(cosines.shape[1], dtype=own.dtype)[None, :]
    is_none = own[:, None] == classes
    if rows.num_classes is not None:
        is_none |= classes >= rows.num_classes - first
    return jnp.where(is_none, -jnp.inf, scale * nearest), slopes


def _to_nearest(dc: Float[Array, "N B"], cosines: Float[Array, "N B K"]) -> Float[Array, "N B K"]:
    """A class's cosine is that of its nearest sub-centre, so its gradient is too."""
    if cosines.shape[2] == 1:
        return dc[:, :, None]
    centers = lax.broadcasted_iota(jnp.int32, cosines.shape, 2)
    return jnp.where(lax.argmax(cosines, 2, jnp.int32)[:, :, None] == centers, dc[:, :, None], 0)


def inverse_lengths(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """1/‖v‖ in float32 at least; 0 for a vector too short to have a direction."""
    squares = jnp.sum(jnp.square(vectors.astype(wide(vectors.dtype))), axis=-1)
    too_short = squares <= SHORTEST**2
    return jnp.where(too_short, 0, lax.rsqrt(jnp.where(too_short, 1, squares)))


def without_radial(gradient: Array, vectors: Array, inverse: Array) -> Array:
    """Less the part along the vectors [..., D], of inverse lengths [...]: a direction does not change that way."""
    unit = vectors * inverse[..., None]
    return gradient - (gradient * unit).sum(axis=-1, keepdims=True) * unit


def _product(subscripts: str, a: Array, b: Array) -> Array:
    """In the dtype of b, summed in float32; a CPU has no units for products of fewer bits, and widens them."""
    widened = wide(b.dtype)
    dtype = widened if is_cpu() else b.dtype
    return jnp.einsum(
        subscripts,
        a.astype(dtype),
        b.astype(dtype),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=widened,
    )
