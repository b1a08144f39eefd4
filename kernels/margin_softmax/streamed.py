"""The loss without its logits: the common part of the implementations that never hold them.

The margin touches the target alone, so it stays outside, in O(N·D) of plain JAX. One operation is left,

    L_i = log Σ_{j≠y_i} exp(s·f(c_ij)),  c_ij = x̂_i·ŵ_j,

and its gradient is computed from the embeddings, the class weights and L again: with g the cotangent of L,

    dc_ij = g_i·s·f'(c_ij)·exp(s·f(c_ij) − L_i),  dx̂ = dc·Ŵ,  dŵ = dcᵀ·X̂.

The same operation fetches the target's class weights, so that their gradient, N rows, is added to the gradient of all
classes in place; autodiff would first expand it to an array of C rows.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax.geometry import normalised, of_moderate_length, target_cos_sin, wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget
from kernels.reverse_mode import reverse_only
from kernels.varying import vary_alike, varying_like


class Hard(NamedTuple):
    """Negatives of a cosine c above their row's threshold count as c·(t + c)."""

    threshold: Float[Array, "N"]
    t: Float[Array, ""]


class Rows(NamedTuple):
    """All of a row but its embedding. Of the classes, the first `num_classes` count; None: all do."""

    labels: Int[Array, "N"]
    hard: Hard | None
    num_classes: Int[Array, ""] | None = None


@runtime_checkable
class Streams(Protocol):
    """An implementation: hashable. Embeddings are of moderate length, class weights of a length in 1e-18 … 1e18 or 0.

    `known` is the scale's value where it is constant, None where it is traced.
    """

    def log_sum(
        self, x: Float[Array, "N D"], w: Float[Array, "C K D"], rows: Rows, scale: Float[Array, ""], known: float | None
    ) -> Float[Array, "N"]:
        """L, in float32 (float64 for float64 embeddings); NaN where a class weight has another length."""
        ...

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
        """Of x and w, in their dtypes."""
        ...

    def slope(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: Float[Array, ""],
        log_sum: Float[Array, "N"],
    ) -> Float[Array, "N"]:
        """∂L_i/∂s = Σ_{j≠y_i} f(c_ij)·exp(s·f(c_ij) − L_i)."""
        ...


def margin_softmax(
    streams: Streams,
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    *,
    margin: OfTarget,
    scale: Float[Array, ""] | float,
    hard_negatives: HardNegatives | None = None,
) -> Float[Array, "N"]:
    """As `reference`, for embeddings and class weights of fewer bits too, which are not widened as a whole."""
    rows = Rows(labels, None)
    if hard_negatives is not None:
        threshold = thresholds(embeddings, class_weights, labels, hard_negatives)
        rows = Rows(labels, Hard(threshold, jnp.asarray(hard_negatives.t, threshold.dtype)))
    others, psi = others_and_psi(streams, embeddings, class_weights, rows, margin=margin, scale=scale)
    return jax.nn.softplus(others - scale * psi)


def others_and_psi(
    streams: Streams,
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    rows: Rows,
    *,
    margin: OfTarget,
    scale: Float[Array, ""] | float,
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """L, and the target's ψ; for a row of label −1, ψ has no meaning and is not to be used."""
    w = class_weights if class_weights.ndim == 3 else class_weights[:, None, :]
    dtype = wide(embeddings.dtype, w.dtype)
    if dtype == jnp.float64:
        embeddings, w = embeddings.astype(dtype), w.astype(dtype)
    if embeddings.dtype == jnp.float16:  # parts of a gradient may exceed its range where their sum does not
        embeddings = embeddings.astype(dtype)
    known = known_scale(scale)
    x, s = of_moderate_length(embeddings), jnp.asarray(scale, dtype)
    x, w, s = (reverse_only(array, "margin_softmax") for array in vary_alike(x, w, s))
    others, own = _others(streams, known, x, w, s, rows)
    return others, margin(*_own_cos_sin(x, own))


def known_scale(scale: Float[Array, ""] | float) -> float | None:
    """Its value; None where it is traced."""
    return None if isinstance(scale, jax.core.Tracer) else float(scale)


def thresholds(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    hard_negatives: HardNegatives,
) -> Float[Array, "N"]:
    """The cosine of each row above which a negative is hard; no gradient flows through it."""
    x, w = jax.lax.stop_gradient((of_moderate_length(embeddings), class_weights))
    own = _own(w if w.ndim == 3 else w[:, None, :], labels)
    return hard_negatives.threshold(*_own_cos_sin(x, own))


def _own(w: Float[Array, "C K D"], labels: Int[Array, "N"]) -> Float[Array, "N K D"]:
    """Each row's class weights; zeros for label −1, so that nothing in w matters to such a row."""
    own = jnp.take(w, labels, axis=0, mode="clip")
    return jnp.where(labels[:, None, None] < 0, 0, own)


def _own_cos_sin(x: Float[Array, "N D"], own: Float[Array, "N K D"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    dtype = wide(x.dtype, own.dtype)
    x, own = normalised(x.astype(dtype)), normalised(of_moderate_length(own).astype(dtype))
    return target_cos_sin(x, own, jnp.arange(len(x), dtype=jnp.int32))


def _computed(
    streams: Streams, known: float | None, x: Array, w: Array, scale: Array, rows: Rows
) -> tuple[Float[Array, "N"], Float[Array, "N K D"]]:
    """L, and each row's own class weights, widened so that their gradient is not rounded before it is summed."""
    return streams.log_sum(x, w, rows, scale, known), _own(w, rows.labels).astype(wide(w.dtype))


def _forward(
    streams: Streams, known: float | None, x: Array, w: Array, scale: Array, rows: Rows
) -> tuple[tuple[Array, Array], tuple]:
    others, own = _computed(streams, known, x, w, scale, rows)
    return (others, own), (x, w, scale, rows, others)


def _backward(
    streams: Streams,
    known: float | None,
    residuals: tuple[Array, Array, Array, Rows, Array],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array, Array, None]:
    x, w, scale, rows, others = residuals
    of_others, of_own = cotangents
    # A row without others (one class, or none hard enough to count) has L = −∞, and passes no gradient.
    is_alone = others == -jnp.inf
    others, of_others = (jnp.where(is_alone, 0, array) for array in (others, of_others))
    dx, dw = streams.gradients(x, w, rows, scale, known, others, of_others)
    of_scale = jnp.zeros_like(scale)
    if known is None:
        of_scale = (of_others * streams.slope(x, w, rows, scale, others)).sum()
    own = jnp.where(rows.labels < 0, len(w), rows.labels)  # of −1, which would be the last class, nothing is added
    return dx, _with_own(dw, own, of_own), of_scale, None


_others = jax.custom_vjp(_computed, nondiff_argnums=(0, 1))
_others.defvjp(_forward, _backward)


def _with_own(dw: Float[Array, "C K D"], own: Int[Array, "N"], of_own: Float[Array, "N K D"]) -> Float[Array, "C K D"]:
    """dw plus each row's gradient of its own class; dw is rounded once, however many rows a class has."""
    if dw.dtype == of_own.dtype:
        return dw.at[own].add(of_own, mode="drop")
    classes, which = jnp.unique(own, return_inverse=True, size=len(own), fill_value=len(dw))
    sums = varying_like(jnp.zeros(of_own.shape, of_own.dtype), of_own).at[which].add(of_own)
    flat = dw.reshape(len(dw), -1)  # which has one layout; or XLA might copy all of dw to have the centres apart
    sums = sums.reshape(len(own), -1) + jnp.take(flat, classes, axis=0, mode="clip").astype(of_own.dtype)
    return flat.at[classes].set(sums.astype(dw.dtype), mode="drop").reshape(dw.shape)
