"""The operation as its users call it: checks, dtypes, and the choice of an implementation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax import choice, pallas_gpu, pallas_tpu, reference, streamed
from kernels.margin_softmax.checks import (
    Implementation,
    Like,
    MarginGrad,
    checked,
    of_target,
    selected,
    with_constant_t,
)
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.geometry import wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget
from kernels.varying import vary_alike


def margin_softmax(
    embeddings: Like,
    class_weights: Like,
    labels: Like,
    *,
    margin: OfTarget,
    scale: Like,
    margin_grad: MarginGrad | str = "exact",
    hard_negatives: HardNegatives | None = None,
    implementation: Implementation | str | None = None,
) -> Float[Array, "N"]:
    """Cross-entropy, an example at a time, of a softmax over scaled cosines whose target has a margin.

    loss_i = −log( exp(s·ψ_i) / (exp(s·ψ_i) + Σ_{j≠y_i} exp(s·f(cos θ_ij))) ), with ψ_i = margin(cos θ_iy, sin θ_iy) and
    f the identity but for hard negatives.

    Differentiable in embeddings, class weights, scale and all that the margin is made of, in reverse mode; "reference"
    in forward mode, too. Usable under jit, vmap, grad, pmap and shard_map. Inputs of less than 32 bits are widened
    before anything is computed from them; the loss is float32, or float64 if either is.

    Args:
      embeddings: [N, D], of any length (CPUs before JAX 0.11 take float32's subnormal numbers for 0): only their
        directions matter. A zero vector has none: it is at θ = π/2 from all classes, and gets no gradient.
      class_weights: [C, D], likewise; or [C, K, D], K sub-centres a class, of which each row sees the nearest. All
        implementations but "reference" serve lengths of 1e-18 to 1e18, and 0; for any other the loss is NaN.
      labels: [N], integers in [0, C). −1 means "no class here": the loss is 0, and no gradient comes from that row,
        whatever it holds. Any other number outside gives a loss of NaN: inside jit nothing can be raised.
      margin: (cos θ, sin θ) of the target -> ψ, all [N]; see `jaxnets.margins`. It may depend on traced arrays.
      scale: s > 0, the length given to all embeddings. It may be traced: no other value is compiled anew then.
      margin_grad: "exact" differentiates the margin. "straight_through" gives the same loss with dψ/dcos θ taken as 1,
        as if there were no margin: the softmax's probabilities alone know of it.
      hard_negatives: which other classes count as c·(t + c), and t; no gradient flows to t, nor through the choice.
      implementation: a name is used or refused; None chooses (see `kernels.margin_softmax.choice`).

    Raises:
      NotImplementedError: from a named implementation that cannot serve these arguments; and from all but "reference"
        for a derivative in forward mode.
      ValueError: for arrays whose shapes or dtypes do not fit, a scale that is not above 0, or an unknown `margin_grad`
        or implementation.
    """
    x, w, labels, scale = checked(embeddings, class_weights, labels, scale, margin_grad, implementation)
    counts = (labels >= 0) & (labels < w.shape[0])
    x, w = vary_alike(jnp.where(counts[:, None], x, 0), w)
    serve = _IMPLEMENTATIONS[implementation or choice.preferred(len(labels), w.shape)]
    losses = serve(
        x,
        w,
        labels,
        margin=of_target(margin, margin_grad, counts),
        scale=scale,
        hard_negatives=with_constant_t(hard_negatives, x, w),
    )
    return selected(losses, labels, w.shape[0])


def _reference(
    embeddings: Float[Array, "N D"],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"],
    labels: Int[Array, "N"],
    **options: Any,
) -> Float[Array, "N"]:
    dtype = wide(embeddings.dtype, class_weights.dtype)
    return reference.margin_softmax(embeddings.astype(dtype), class_weights.astype(dtype), labels, **options)


_IMPLEMENTATIONS: dict[str, Callable[..., Float[Array, "N"]]] = {
    "reference": _reference,
    "chunked": partial(streamed.margin_softmax, Chunked()),
    "pallas_gpu": pallas_gpu.margin_softmax,
    "pallas_tpu": pallas_tpu.margin_softmax,
}
