"""The loss without its logits: what the implementations that never hold them have in common.

The margin touches the target alone, so it stays outside, in O(N·D) of plain JAX. One operation is left,

    L_i = log Σ_{j≠y_i} exp(s·f(c_ij)),  c_ij = x̂_i·ŵ_j,

and its gradient is made of the embeddings, the class weights and L again: with g the cotangent of L,

    dc_ij = g_i·s·f'(c_ij)·exp(s·f(c_ij) − L_i),  dx̂ = dc·Ŵ,  dŵ = dcᵀ·X̂.

The target's own weights are fetched by the same operation, so that their gradient, N rows, is added to that of all
classes in place; autodiff would first make it an array of C rows of its own.
"""

import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax.geometry import directions, target_cos_sin, wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget
from kernels.varying import varying_like


class Hard(NamedTuple):
    """Negatives of a cosine c above their row's threshold count as c·(t + c)."""

    threshold: Float[Array, "N"]
    t: Float[Array, ""]


class Rows(NamedTuple):
    """What a row knows beside its embedding; and of how many classes the first ones are, where others are padding."""

    labels: Int[Array, "N"]
    hard: Hard | None
    num_classes: Int[Array, ""] | None = None


class Streams(Protocol):
    """An implementation: hashable, with the embeddings and class weights as they are given, of any length."""

    def log_sum(self, x: Float[Array, "N D"], w: Float[Array, "C K D"], rows: Rows, scale: float) -> Float[Array, "N"]:
        """L, in float32 (float64 for float64 embeddings)."""
        ...

    def gradients(
        self,
        x: Float[Array, "N D"],
        w: Float[Array, "C K D"],
        rows: Rows,
        scale: float,
        log_sum: Float[Array, "N"],
        cotangent: Float[Array, "N"],
    ) -> tuple[Float[Array, "N D"], Float[Array, "C K D"]]:
        """Of x and w, in their dtypes."""
        ...


def margin_softmax(
    streams: Streams,
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    *,
    margin: OfTarget,
    scale: float,
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
    scale: float,
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """L, and the target's ψ; that of a row without a class here is of another class, and not to be used."""
    scale = _known(scale)
    w = class_weights if class_weights.ndim == 3 else class_weights[:, None, :]
    dtype = wide(embeddings.dtype, w.dtype)
    if dtype == jnp.float64:
        embeddings, w = embeddings.astype(dtype), w.astype(dtype)
    others, own = _others(streams, scale, embeddings, w, rows)
    return others, margin(*_own_cos_sin(embeddings, own))


def _known(scale: float) -> float:
    try:
        return float(scale)
    except jax.errors.ConcretizationTypeError:
        raise NotImplementedError(
            "scale must be a number that is known when the program is traced: the implementation 'reference' alone "
            "takes another"
        ) from None


def thresholds(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    hard_negatives: HardNegatives,
) -> Float[Array, "N"]:
    """Of each row, above which cosine a negative is hard; no gradient flows through it."""
    x, w = jax.lax.stop_gradient((embeddings, class_weights))
    own = jnp.take(w, labels, axis=0, mode="clip")
    return hard_negatives.threshold(*_own_cos_sin(x, own if own.ndim == 3 else own[:, None, :]))


def _own_cos_sin(x: Float[Array, "N D"], own: Float[Array, "N K D"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    dtype = wide(x.dtype, own.dtype)
    x, own = directions(x.astype(dtype)), directions(own.astype(dtype))
    return target_cos_sin(x, own, jnp.arange(len(x), dtype=jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _others(
    streams: Streams, scale: float, x: Array, w: Array, rows: Rows
) -> tuple[Float[Array, "N"], Float[Array, "N K D"]]:
    """L, and each row's own class weights, widened so that their gradient is not rounded before it is summed."""
    own = jnp.take(w, rows.labels, axis=0, mode="clip")
    return streams.log_sum(x, w, rows, scale), own.astype(wide(w.dtype))


def _forward(streams: Streams, scale: float, x: Array, w: Array, rows: Rows) -> tuple[tuple[Array, Array], tuple]:
    others, own = _others(streams, scale, x, w, rows)
    return (others, own), (x, w, rows, others)


def _backward(
    streams: Streams, scale: float, residuals: tuple[Array, Array, Rows, Array], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    x, w, rows, others = residuals
    of_others, of_own = cotangents
    # A row without others (one class, or none hard enough to count) has L = −∞, and passes no gradient.
    is_alone = others == -jnp.inf
    others, of_others = (jnp.where(is_alone, 0, array) for array in (others, of_others))
    dx, dw = streams.gradients(x, w, rows, scale, others, of_others)
    own = jnp.where(rows.labels < 0, len(w), rows.labels)  # those without a class here: −1 would be the last one
    return dx, _with_own(dw, own, of_own), None


_others.defvjp(_forward, _backward)


def _with_own(dw: Float[Array, "C K D"], own: Int[Array, "N"], of_own: Float[Array, "N K D"]) -> Float[Array, "C K D"]:
    """dw and, at the class of each row, what comes of it; dw is rounded once, however many rows a class has."""
    if dw.dtype == of_own.dtype:
        return dw.at[own].add(of_own, mode="drop")
    classes, which = jnp.unique(own, return_inverse=True, size=len(own), fill_value=len(dw))
    sums = varying_like(jnp.zeros(of_own.shape, of_own.dtype), of_own).at[which].add(of_own)
    flat = dw.reshape(len(dw), -1)  # which has one layout; or XLA might copy all of dw to have the centres apart
    sums = sums.reshape(len(own), -1) + jnp.take(flat, classes, axis=0, mode="clip").astype(of_own.dtype)
    return flat.at[classes].set(sums.astype(dw.dtype), mode="drop").reshape(dw.shape)
