"""Arguments, before anything is computed from them: checked, labels in int32, constants held constant."""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.margin_softmax.geometry import wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget

Implementation: TypeAlias = Literal["reference", "chunked", "pallas_gpu", "pallas_tpu"]
MarginGrad: TypeAlias = Literal["exact", "straight_through"]


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
