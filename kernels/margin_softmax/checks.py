"""Arguments, before anything is computed from them: arrays, checked; rows that do not count made harmless."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from kernels.margin_softmax.geometry import wide
from kernels.margin_softmax.reference import HardNegatives, OfTarget

Implementation: TypeAlias = Literal["reference", "chunked", "pallas_gpu", "pallas_tpu"]
MarginGrad: TypeAlias = Literal["exact", "straight_through"]
Like: TypeAlias = ArrayLike | Sequence[Any]  # as jnp.asarray


def checked(
    embeddings: Like,
    class_weights: Like,
    labels: Like,
    scale: Like,
    margin_grad: MarginGrad | str,
    implementation: Implementation | str | None,
) -> tuple[Array, Array, Array, Array | float]:
    """The first four as arrays, labels in int32; a scale that is not traced as a number.

    Raises:
      ValueError: for shapes, dtypes or names that no implementation takes.
    """
    x, w = checked_vectors(embeddings, class_weights)
    y: Any = labels if hasattr(labels, "dtype") else jnp.asarray(labels)  # of 64 bits it would lose some
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must be [N], one for each embedding [N, D]: embeddings {x.shape}, labels {y.shape}")
    if margin_grad not in get_args(MarginGrad):
        raise ValueError(f"margin_grad is exact or straight_through, not {margin_grad!r}")
    if implementation not in (None, *get_args(Implementation)):
        known = ", ".join(get_args(Implementation))
        raise ValueError(
            f"margin_softmax has no implementation {implementation!r}; there is {known}, or None to choose"
        )
    return x, w, as_int32(y), _as_scale(scale, wide(x.dtype, w.dtype))


def checked_vectors(embeddings: Like, class_weights: Like) -> tuple[Array, Array]:
    """Both as arrays.

    Raises:
      ValueError: for shapes or dtypes that do not fit.
    """
    x, w = jnp.asarray(embeddings), jnp.asarray(class_weights)
    shapes = f"embeddings {x.shape}, class_weights {w.shape}"
    if x.ndim != 2 or w.ndim not in (2, 3) or 0 in w.shape:
        raise ValueError(f"embeddings must be [N, D], and class_weights [C, D] or [C, K, D], none of these 0: {shapes}")
    if x.shape[1] != w.shape[-1]:
        raise ValueError(f"embeddings and class_weights must share their last dimension D: {shapes}")
    for name, array in (("embeddings", x), ("class_weights", w)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, not {array.dtype}")
    return x, w


def _as_scale(scale: Like, dtype: Any) -> Array | float:
    if isinstance(scale, jax.core.Tracer):
        if scale.shape or not jnp.issubdtype(scale.dtype, jnp.floating):
            raise ValueError(f"scale must be one floating-point number for all rows, not {scale.dtype} {scale.shape}")
        return scale.astype(dtype)
    number = np.asarray(scale)
    if number.shape or not 0 < number < np.inf:
        raise ValueError(f"scale must be one finite number above 0 for all rows, not {scale}")
    return float(number)


def as_int32(labels: Int[Array, "N"] | Any) -> Int[Array, "N"]:
    """Converts to int32 by clamping: labels out of range stay out of range.

    Raises:
      ValueError: for labels that are no integers.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    known = jnp.iinfo(labels.dtype)
    return jnp.asarray(labels.clip(max(known.min, -2), min(known.max, 2**31 - 1)).astype(jnp.int32))


def of_target(margin: OfTarget, margin_grad: MarginGrad | str, counts: Bool[Array, "N"]) -> OfTarget:
    """The margin with the gradient that is asked for; of rows that do not count, 0, whatever they hold."""

    def of_counted(cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        # Selected before and after: 0 times NaN is not 0, so no derivative may be multiplied on the way.
        cos_theta, sin_theta = jnp.where(counts, cos_theta, 0), jnp.where(counts, sin_theta, 1)
        psi = margin(cos_theta, sin_theta)
        if margin_grad == "straight_through":
            psi = jax.lax.stop_gradient(psi) + (cos_theta - jax.lax.stop_gradient(cos_theta))  # ψ + 0
        return jnp.where(counts, psi, 0)

    return of_counted


def with_constant_t(
    hard_negatives: HardNegatives | None, embeddings: Array, class_weights: Array
) -> HardNegatives | None:
    """The same, with t as an array that no gradient flows to.

    Raises:
      ValueError: for a t that is not one number.
    """
    if hard_negatives is None:
        return None
    t = jax.lax.stop_gradient(jnp.asarray(hard_negatives.t, wide(embeddings.dtype, class_weights.dtype)))
    if t.shape:
        raise ValueError(f"hard_negatives has one t for all rows, not {t.shape}")
    return hard_negatives._replace(t=t)


def selected(losses: Float[Array, "N"], labels: Int[Array, "N"], num_classes: int) -> Float[Array, "N"]:
    """The losses of rows with a class; 0 for label −1, NaN for any other number outside of 0 … C − 1."""
    losses = jnp.where((labels >= 0) & (labels < num_classes), losses, 0)
    is_impossible = (labels < -1) | (labels >= num_classes)
    return losses / jnp.where(is_impossible, 0, 1).astype(losses.dtype)  # no NaN is made for rows that get none
