"""The definition: every implementation of the operation agrees with this one."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax.geometry import cosines, directions, target_cos_sin

OfTarget: TypeAlias = Callable[[Float[Array, "N"], Float[Array, "N"]], Float[Array, "N"]]


class HardNegatives(NamedTuple):
    """Other classes whose cosine c exceeds `threshold`(cos θ, sin θ) of the row's target count as c·(t + c)."""

    t: Float[Array, ""] | float
    threshold: OfTarget


def margin_softmax(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    *,
    margin: OfTarget,
    scale: Float[Array, ""] | float,
    hard_negatives: HardNegatives | None = None,
) -> Float[Array, "N"]:
    """loss_i = log(1 + exp(L_i − scale·ψ_i)), ψ_i = margin(θ_iy), L_i = log Σ_{j≠y_i} exp(scale·f(cos θ_ij)).

    With x̂ and ŵ of unit length, cos θ_ij = x̂_i·ŵ_j, or max_k x̂_i·ŵ_jk; f(c) is c, and c·(t + c) of a hard negative.
    """
    x, w = directions(embeddings), directions(class_weights)
    is_target = labels[:, None] == jnp.arange(w.shape[0], dtype=labels.dtype)[None, :]
    negatives = cosines(x, w)
    if hard_negatives is not None:
        is_hard = negatives > hard_negatives.threshold(*target_cos_sin(x, w, labels))[:, None]
        negatives = jnp.where(is_hard, negatives * (hard_negatives.t + negatives), negatives)
    others = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, scale * negatives), axis=1)
    target = scale * margin(*target_cos_sin(x, w, labels))
    return jax.nn.softplus(others - target)
