"""Classes with several sub-centres after training: which ones count, and which images lie at the others."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxnets.domains import Number, check
from jaxnets.explicit_axes import between_auto_axes, of_rows
from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.labels import as_labels, is_class
from jaxnets.labels import check as check_labels
from kernels.margin_softmax.geometry import directions
from kernels.precision import wide


def dominant_centers(embeddings: Vectors, class_weights: ClassWeights, labels: Labels) -> Float[Array, "C D"]:
    """For each class the sub-centre that is nearest to most of its embeddings; the first for a class without any.

    The other sub-centres attract noisy or unusual images, and can be dropped after training: Deng et al., Sub-center
    ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces, 2020.

    Args:
      embeddings: [N, D], of any length.
      class_weights: [C, K, D], K sub-centres a class.
      labels: [N], integers in [0, C). A row of label −1 counts for no class, whatever it holds.

    Raises:
      ValueError: for any other label; where labels are traced, the result is NaN instead.
    """
    x, w, labels = _checked(embeddings, class_weights, labels)
    centers: Array = between_auto_axes(_most_voted, x, w, labels, out=lambda: of_rows(w))
    return centers


def lie_at_dominant(
    embeddings: Vectors, class_weights: ClassWeights, labels: Labels, *, max_angle: Number = math.pi
) -> Bool[Array, "N"]:
    """Which images belong to their class: its dominant sub-centre is the nearest, and not too far.

    The others are mostly labelled wrongly. Deng et al. train with K = 3, drop these images at a `max_angle` of 75°, and
    train again with K = 1.

        keeps = np.asarray(lie_at_dominant(embeddings, class_weights, labels, max_angle=math.radians(75)))
        images, labels = images[keeps], labels[keeps]

    Args:
      embeddings, class_weights, labels: as `dominant_centers` takes them. A row of label −1 belongs to no class.
      max_angle: in radians, in [0, π].

    Raises:
      ValueError: for any other label, where labels are not traced; for a `max_angle` outside its domain.
    """
    check("max_angle", max_angle, "[0, π]", unit="radians")
    x, w, labels = _checked(embeddings, class_weights, labels)
    lie: Array = between_auto_axes(_lie_near, x, w, labels, max_angle, out=lambda: of_rows(x))
    return lie


def _checked(embeddings: Vectors, class_weights: ClassWeights, labels: Labels) -> tuple[Array, Array, Array]:
    x, w, labels = jnp.asarray(embeddings), jnp.asarray(class_weights), as_labels(labels)
    check_labels(labels, w.shape[0])
    return x, w, labels


def _most_voted(x: Float[Array, "N D"], w: Float[Array, "C K D"], labels: Int[Array, "N"]) -> Float[Array, "C D"]:
    dominant = _dominant(_to_own(x, w, labels), w, labels)
    centers = jnp.take_along_axis(w, dominant[:, None, None], axis=1)[:, 0]
    is_error = ~is_class(labels, len(w)) & (labels != -1)
    return jnp.where(is_error.any(), np.nan, centers)


def _lie_near(
    x: Float[Array, "N D"], w: Float[Array, "C K D"], labels: Int[Array, "N"], max_angle: Number
) -> Bool[Array, "N"]:
    to_own = _to_own(x, w, labels)
    center = jnp.take(_dominant(to_own, w, labels), labels, mode="clip")
    to_center = jnp.take_along_axis(to_own, center[:, None], axis=1)[:, 0]
    angle = jnp.arccos(jnp.clip(to_center, -1, 1))
    is_near = angle <= jnp.asarray(max_angle, angle.dtype)
    return is_class(labels, len(w)) & (to_own.argmax(axis=1) == center) & is_near


def _to_own(x: Float[Array, "N D"], w: Float[Array, "C K D"], labels: Int[Array, "N"]) -> Float[Array, "N K"]:
    """The cosines between each embedding and the sub-centres of its own class."""
    dtype = wide(x.dtype, w.dtype)
    own = directions(jnp.take(w, labels, axis=0, mode="clip").astype(dtype))
    return jnp.einsum("nd,nkd->nk", directions(x.astype(dtype)), own, precision=jax.lax.Precision.HIGHEST)


def _dominant(cosines: Float[Array, "N K"], w: Float[Array, "C K D"], labels: Int[Array, "N"]) -> Int[Array, "C"]:
    # A negative index would count from the end: rows that do not count vote for a class beyond the last.
    voted = jnp.where(is_class(labels, len(w)), labels, len(w))
    votes = jnp.zeros(w.shape[:2], jnp.int32).at[voted, cosines.argmax(axis=1)].add(1, mode="drop")
    return votes.argmax(axis=1)
