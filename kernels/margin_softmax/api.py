"""The operation as its users call it: checks, dtypes, and the choice of an implementation."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax import reference

Implementation: TypeAlias = Literal["reference"]


def margin_softmax(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"],
    labels: Int[Array, "N"],
    *,
    margin: Callable[[Float[Array, "N"], Float[Array, "N"]], Float[Array, "N"]],
    scale: float,
    implementation: Implementation | None = None,
) -> Float[Array, "N"]:
    """Cross-entropy, an example at a time, of a softmax over scaled cosines whose target has a margin.

    loss_i = −log( exp(s·ψ_i) / (exp(s·ψ_i) + Σ_{j≠y_i} exp(s·cos θ_ij)) ), with ψ_i = margin(cos θ_iy, sin θ_iy).

    Differentiable in embeddings and class weights, with the exact gradient; usable under jit, vmap and grad. Inputs of
    less than 32 bits are widened before anything is computed from them; the loss is float32, or float64 if either is.

    Args:
      embeddings: [N, D], of any length: their directions alone matter.
      class_weights: [C, D], likewise.
      labels: [N], integers in [0, C). −1 means "no class here": the loss is 0 and no gradient comes from that row.
        Any other number outside gives a loss of NaN: inside jit nothing can be raised.
      margin: (cos θ, sin θ) of the target -> ψ, all [N]; see `jaxnets.margins`.
      scale: s, the length given to all embeddings.
      implementation: a name is used or refused; None chooses.

    Raises:
      ValueError: for arrays whose shapes or dtypes do not fit, or an unknown implementation.
    """
    _check(embeddings, class_weights, labels)
    if implementation not in (None, *get_args(Implementation)):
        known = ", ".join(get_args(Implementation))
        raise ValueError(
            f"margin_softmax has no implementation {implementation!r}; there is {known}, or None to choose"
        )

    dtype = jnp.float64 if jnp.float64 in (embeddings.dtype, class_weights.dtype) else jnp.float32
    x, w, labels = embeddings.astype(dtype), class_weights.astype(dtype), labels.astype(jnp.int32)
    loss = reference.margin_softmax(x, w, labels, margin=margin, scale=scale)
    is_class = (labels >= 0) & (labels < class_weights.shape[0])
    return jnp.where(is_class, loss, jnp.where(labels == -1, 0, jnp.nan).astype(dtype))


def _check(embeddings: Array, class_weights: Array, labels: Array) -> None:
    shapes = f"embeddings {embeddings.shape}, class_weights {class_weights.shape}, labels {labels.shape}"
    if (embeddings.ndim, class_weights.ndim, labels.ndim) != (2, 2, 1):
        raise ValueError(f"margin_softmax takes embeddings [N, D], class_weights [C, D] and labels [N], not {shapes}")
    if embeddings.shape[1] != class_weights.shape[1]:
        raise ValueError(f"embeddings and class_weights must share their last dimension D: {shapes}")
    if embeddings.shape[0] != labels.shape[0]:
        raise ValueError(f"embeddings and labels must share their first dimension N: {shapes}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    for name, array in (("embeddings", embeddings), ("class_weights", class_weights)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, not {array.dtype}")
