"""The operation as its users call it: checks, dtypes, and the choice of an implementation."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax import choice, pallas_gpu, pallas_tpu, reference, streamed
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.geometry import wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget
from kernels.varying import vary_alike

Implementation: TypeAlias = Literal["reference", "chunked", "pallas_gpu", "pallas_tpu"]
MarginGrad: TypeAlias = Literal["exact", "straight_through"]


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


def of_target(margin: OfTarget, margin_grad: MarginGrad) -> OfTarget:
    """The margin with the gradient that is asked for."""
    if margin_grad == "exact":
        return margin

    def unchanged(cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        psi = jax.lax.stop_gradient(margin(cos_theta, sin_theta))
        return psi + (cos_theta - jax.lax.stop_gradient(cos_theta))  # ψ + 0

    return unchanged


def with_constant_t(
    hard_negatives: HardNegatives | None, embeddings: Array, class_weights: Array
) -> HardNegatives | None:
    if hard_negatives is None:
        return None
    t = jax.lax.stop_gradient(jnp.asarray(hard_negatives.t, wide(embeddings.dtype, class_weights.dtype)))
    if t.shape:
        raise ValueError(f"hard_negatives has one t for all rows, not {t.shape}")
    return hard_negatives._replace(t=t)


def as_int32(labels: Int[Array, "N"]) -> Int[Array, "N"]:
    """No integer becomes a class, or −1, that was not: those too large or too small stay outside of all classes."""
    known = jnp.iinfo(labels.dtype)
    return jnp.asarray(labels.clip(max(known.min, -2), min(known.max, 2**31 - 1)).astype(jnp.int32))


def check(
    embeddings: Array,
    class_weights: Array,
    labels: Array,
    margin_grad: MarginGrad,
    implementation: Implementation | None,
) -> None:
    """Raises ValueError for what no implementation takes."""
    shapes = f"embeddings {embeddings.shape}, class_weights {class_weights.shape}, labels {labels.shape}"
    if embeddings.ndim != 2 or class_weights.ndim not in (2, 3) or labels.ndim != 1 or 0 in class_weights.shape:
        raise ValueError(
            "margin_softmax takes embeddings [N, D], class_weights [C, D] or [C, K, D], none of these 0, and labels "
            f"[N], not {shapes}"
        )
    if embeddings.shape[1] != class_weights.shape[-1]:
        raise ValueError(f"embeddings and class_weights must share their last dimension D: {shapes}")
    if embeddings.shape[0] != labels.shape[0]:
        raise ValueError(f"embeddings and labels must share their first dimension N: {shapes}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    for name, array in (("embeddings", embeddings), ("class_weights", class_weights)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, not {array.dtype}")
    if margin_grad not in get_args(MarginGrad):
        raise ValueError(f"margin_grad is exact or straight_through, not {margin_grad!r}")
    if implementation not in (None, *get_args(Implementation)):
        known = ", ".join(get_args(Implementation))
        raise ValueError(
            f"margin_softmax has no implementation {implementation!r}; there is {known}, or None to choose"
        )
