"""The operation as its users call it: checks, dtypes, and the choice of an implementation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax import choice, pallas_gpu, pallas_tpu, reference, streamed
from kernels.margin_softmax.checks import Implementation, MarginGrad, as_int32, check, of_target, with_constant_t
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.geometry import wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget
from kernels.varying import vary_alike


def margin_softmax(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    *,
    margin: OfTarget,
    scale: float,
    margin_grad: MarginGrad = "exact",
    hard_negatives: HardNegatives | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "N"]:
    """Cross-entropy, an example at a time, of a softmax over scaled cosines whose target has a margin.

    loss_i = −log( exp(s·ψ_i) / (exp(s·ψ_i) + Σ_{j≠y_i} exp(s·f(cos θ_ij))) ), with ψ_i = margin(cos θ_iy, sin θ_iy) and
    f the identity but for hard negatives.

    Differentiable in embeddings and class weights, in reverse mode; usable under jit, vmap, grad, pmap and shard_map.
    Inputs of less than 32 bits are widened before anything is computed from them; the loss is float32, or float64 if
    either is.

    Args:
      embeddings: [N, D], of any length from 1e-12 to 1e19: their directions alone matter. Shorter ones have none.
      class_weights: [C, D], likewise; or [C, K, D], K sub-centres a class, of which each row sees the nearest.
      labels: [N], integers in [0, C). −1 means "no class here": the loss is 0 and no gradient comes from that row.
        Any other number outside gives a loss of NaN: inside jit nothing can be raised.
      margin: (cos θ, sin θ) of the target -> ψ, all [N]; see `jaxnets.margins`.
      scale: s, the length given to all embeddings; "reference" alone takes one that is traced.
      margin_grad: "exact" differentiates the margin. "straight_through" gives the same loss with dψ/dcos θ taken as 1,
        as if there were no margin: the softmax's probabilities alone know of it.
      hard_negatives: which other classes count as c·(t + c), and t; no gradient flows to t, nor through the choice.
      implementation: a name is used or refused; None chooses (see `kernels.margin_softmax.choice`).

    Raises:
      NotImplementedError: from a named implementation that cannot serve these arguments.
      ValueError: for arrays whose shapes or dtypes do not fit, or an unknown `margin_grad` or implementation.
    """
    check(embeddings, class_weights, labels, margin_grad, implementation)
    embeddings, class_weights = vary_alike(embeddings, class_weights)
    labels = as_int32(labels)
    margin = of_target(margin, margin_grad)
    hard_negatives = with_constant_t(hard_negatives, embeddings, class_weights)
    serve = _IMPLEMENTATIONS[implementation or choice.preferred(len(labels), class_weights.shape)]
    loss = serve(embeddings, class_weights, labels, margin=margin, scale=scale, hard_negatives=hard_negatives)
    is_class = (labels >= 0) & (labels < class_weights.shape[0])
    return jnp.where(is_class, loss, jnp.where(labels == -1, 0, jnp.nan).astype(loss.dtype))


def _reference(embeddings: Array, class_weights: Array, labels: Array, **options: Any) -> Float[Array, "N"]:
    dtype = wide(embeddings.dtype, class_weights.dtype)
    return reference.margin_softmax(embeddings.astype(dtype), class_weights.astype(dtype), labels, **options)


_IMPLEMENTATIONS: dict[str, Callable[..., Float[Array, "N"]]] = {
    "reference": _reference,
    "chunked": partial(streamed.margin_softmax, Chunked()),
    "pallas_gpu": pallas_gpu.margin_softmax,
    "pallas_tpu": pallas_tpu.margin_softmax,
}
