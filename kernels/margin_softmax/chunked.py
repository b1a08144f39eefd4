"""Classes in chunks, in plain XLA, for every platform: N × chunk numbers at a time, forward and backward.

Products are taken of embeddings and class weights as they are given, and scaled to cosines afterwards: of bfloat16
inputs they are exact then, where rounded unit vectors would be off by up to 2⁻⁸ before anything is multiplied by s.

Cosines are [classes, rows]. So their product is of the chunk as it lies in memory, and so is the one for its gradient,
from which the part along the class weights is taken off by a sum over rows, the minor axis.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.margin_softmax import choice
from kernels.margin_softmax.geometry import inverse_lengths, inverse_lengths_in_range, wide, without_radial
from kernels.margin_softmax.streamed import Rows
from kernels.platform import is_cpu
from kernels.varying import varying_like

LARGEST_EXPONENT = 85  # e^88 is about the largest float32, and e^−87 the smallest of full precision


@dataclasses.dataclass(frozen=True)
class Chunked:
    """`size`: how many classes are taken at once; None chooses."""

    size: int | None = None

    def log_sum(
        self, x: Float[Array, "N D"], w: Float[Array, "C K D"], rows: Rows, scale: Float[Array, ""], known: float | None
    ) -> Float[Array, "N"]:
        xt, inverse_x = x.T, inverse_lengths(x)
        # |s·cos θ| ≤ s: where C terms of at most e^s fit in float32, the largest one need not be known.
        is_bounded = rows.hard is None and known is not None and known + math.log(len(w)) < LARGEST_EXPONENT

        def add(chunk: Array, inverse_w: Array, first: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            largest, total = so_far
            products = _product("cd,dn->cn", chunk.reshape(-1, chunk.shape[-1]), xt, _common(x, w))
            logits, _ = _logits(_cosines(products, inverse_x, inverse_w), first, rows, scale)
            if is_bounded:
                return largest, total + jnp.exp(logits).sum(axis=0)
            new_largest = jnp.maximum(largest, logits.max(axis=0))
            shift = jnp.where(new_largest == -jnp.inf, 0, new_largest)  # as long as nothing has counted
            rescaled = total * jnp.exp(largest - shift)
            return new_largest, rescaled + jnp.exp(logits - shift[None, :]).sum(axis=0)

        nothing = varying_like(jnp.zeros(len(x), inverse_x.dtype), x)
        largest, total = self._over_chunks(w, rows, add, (nothing if is_bounded else nothing - jnp.inf, nothing))
        return jnp.where(total == 0, -jnp.inf, largest + jnp.log(jnp.where(total == 0, 1, total)))

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
        xt, inverse_x = x.T, inverse_lengths(x)
        dtype = inverse_x.dtype
        of_rows = cotangent * scale
        weight = inverse_x * of_rows
        weighted_x = x.astype(dtype) * weight[:, None]

        def add(chunk: Array, inverse_w: Array, first: Array | int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            dx, dw = so_far
            flat, inverse = chunk.reshape(-1, chunk.shape[-1]), inverse_w.reshape(-1)
            products = _product("cd,dn->cn", flat, xt, _common(x, w))
            cosines = _cosines(products, inverse_x, inverse_w)
            logits, slopes = _logits(cosines, first, rows, scale)
            share = jnp.exp(logits - log_sum[None, :])  # 0 where a logit is −∞
            if slopes is not None:
                share = share * slopes
            # Factors of a row are multiplied into the products' other sides, of N × D numbers and not N × B.
            to_each = _to_nearest(share, cosines).reshape(products.shape) * inverse[:, None]
            along = (to_each * products * weight[None, :]).sum(axis=1) * inverse
            # A CPU's routine for aᵀ·b is slower than the one for a·b, by more than it takes to transpose first.
            across = lax.optimization_barrier(to_each.T) if is_cpu() else to_each.T
            dx = dx + _product("nc,cd->nd", across, flat, _common(x, w))
            dw_flat = _product("cn,nd->cd", to_each, weighted_x, _common(x, w))
            unit = flat.astype(dtype) * inverse[:, None]
            dw_chunk = (dw_flat - along[:, None] * unit).astype(w.dtype).reshape(chunk.shape)
            return dx, lax.dynamic_update_slice_in_dim(dw, dw_chunk, first, 0)

        # The barrier keeps these zeros from being made together with the first gradients, by a slower loop on a CPU.
        no_dw = lax.optimization_barrier(jnp.zeros(w.shape, w.dtype))
        zeros = varying_like(jnp.zeros(x.shape, dtype), x), varying_like(no_dw, x)
        dx, dw = self._over_chunks(w, rows, add, zeros)
        dx = without_radial(dx * of_rows[:, None], x.astype(dtype), inverse_x) * inverse_x[:, None]
        return dx.astype(x.dtype), dw

    def slope(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: Float[Array, ""],
        log_sum: Float[Array, "N"],
    ) -> Float[Array, "N"]:
        xt, inverse_x = x.T, inverse_lengths(x)
        one = jnp.ones_like(scale)

        def add(chunk: Array, inverse_w: Array, first: Array | int, so_far: Array) -> Array:
            products = _product("cd,dn->cn", chunk.reshape(-1, chunk.shape[-1]), xt, _common(x, w))
            counted, _ = _logits(_cosines(products, inverse_x, inverse_w), first, rows, one)
            counts = counted > -jnp.inf
            shares = jnp.exp(jnp.where(counts, scale * counted - log_sum[None, :], -jnp.inf))
            return so_far + (shares * jnp.where(counts, counted, 0)).sum(axis=0)

        return jnp.asarray(self._over_chunks(w, rows, add, varying_like(jnp.zeros_like(inverse_x), x)))

    def _over_chunks(self, w: Array, rows: Rows, add: Callable[..., Any], so_far: Any) -> Any:
        """Folds `add`(chunk of w, inverse lengths, first class, so far) over the classes, without padding the last.

        Class weights that are padding reach it as zeros, whatever they hold.
        """
        num_classes = w.shape[0]
        size = self.size or choice.chunk_size(len(rows.labels), w.shape)
        whole = num_classes // size if num_classes > size else 0
        inverse_w = inverse_lengths_in_range(w)  # in one go: a program of value and gradients does it once

        def one(first: Array | int, size: int, so_far: Any) -> Any:
            # Or XLA would normalise and transpose all of w at once, outside of the loop.
            chunk, inverse = (lax.dynamic_slice_in_dim(array, first, size) for array in (w, inverse_w))
            if rows.num_classes is not None:
                counts = jnp.arange(size, dtype=jnp.int32) < rows.num_classes - first
                chunk, inverse = jnp.where(counts[:, None, None], chunk, 0), jnp.where(counts[:, None], inverse, 0)
            return add(lax.optimization_barrier(chunk), inverse, first, so_far)

        # The rest comes first: XLA copies an array that is written to after a loop.
        rest = num_classes - whole * size
        so_far = one(whole * size, rest, so_far) if rest else so_far
        return lax.fori_loop(0, whole, lambda i, so_far: one(i * size, size, so_far), so_far) if whole else so_far


def _cosines(
    products: Float[Array, "BK N"], inverse_x: Float[Array, "N"], inverse_w: Float[Array, "B K"]
) -> Float[Array, "B K N"]:
    return products.reshape(*inverse_w.shape, -1) * inverse_x[None, None, :] * inverse_w[:, :, None]


def _logits(
    cosines: Float[Array, "B K N"], first: Array | int, rows: Rows, scale: Float[Array, ""]
) -> tuple[Float[Array, "B N"], Float[Array, "B N"] | None]:
    """s·f(c) of a chunk of classes, −∞ for the rows' own ones and padding, and f'(c) where f is not the identity."""
    nearest, slopes = cosines.max(axis=1), None
    if rows.hard is not None:
        is_hard = nearest > rows.hard.threshold[None, :]
        slopes = jnp.where(is_hard, rows.hard.t + 2 * nearest, 1)
        nearest = jnp.where(is_hard, nearest * (rows.hard.t + nearest), nearest)
    own = rows.labels - first
    classes = jnp.arange(len(cosines), dtype=own.dtype)[:, None]
    is_none = classes == own[None, :]
    if rows.num_classes is not None:
        is_none |= classes >= rows.num_classes - first
    return jnp.where(is_none, -jnp.inf, scale * nearest), slopes


def _to_nearest(dc: Float[Array, "B N"], cosines: Float[Array, "B K N"]) -> Float[Array, "B K N"]:
    """A class's cosine is its nearest sub-centre's, which alone takes the gradient."""
    dc = dc[:, None]
    if cosines.shape[1] == 1:
        return dc
    centers = lax.broadcasted_iota(jnp.int32, cosines.shape, 1)
    return jnp.where(lax.argmax(cosines, 1, jnp.int32)[:, None] == centers, dc, 0)


def _common(x: Array, w: Array) -> Any:
    """The dtype of their products: of two dtypes, neither is rounded to the other."""
    return x.dtype if x.dtype == w.dtype else wide(x.dtype, w.dtype)


def _product(subscripts: str, a: Array, b: Array, dtype: Any) -> Array:
    """Of numbers in `dtype`, summed in float32; a CPU has no units for products of fewer bits, and widens them."""
    widened = wide(dtype)
    dtype = widened if is_cpu() else dtype
    return jnp.einsum(
        subscripts,
        a.astype(dtype),
        b.astype(dtype),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=widened,
    )
