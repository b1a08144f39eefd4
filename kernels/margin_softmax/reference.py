"""The definition: every implementation of the operation agrees with this one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax.geometry import cos_sin, directions


def margin_softmax(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"],
    labels: Int[Array, "N"],
    *,
    margin: Callable[[Float[Array, "N"], Float[Array, "N"]], Float[Array, "N"]],
    scale: float,
) -> Float[Array, "N"]:
    """With x̂ and ŵ of unit length: loss_i = log(1 + exp(L_i − scale·ψ_i)), L_i = log Σ_{j≠y_i} exp(scale·x̂_i·ŵ_j)."""
    x, w = directions(embeddings), directions(class_weights)
    is_target = labels[:, None] == jnp.arange(w.shape[0], dtype=labels.dtype)[None, :]
    others = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, scale * (x @ w.T)), axis=1)
    target = scale * margin(*cos_sin(x, jnp.take(w, labels, axis=0, mode="clip")))
    return jax.nn.softplus(others - target)
