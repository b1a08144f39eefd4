"""Embeddings, class weights and labels in; a loss for each example out."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import kernels.margin_softmax as kernel
from jaxnets.domains import Number, check, check_count
from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.labels import as_labels, is_class
from jaxnets.labels import check as check_labels
from jaxnets.margins import AdaptiveMargin, Curriculum, Margin, Statistics, Tutorial
from kernels.margin_softmax import geometry
from kernels.margin_softmax.geometry import directions
from kernels.precision import wide


def adacos_scale(num_classes: int) -> float:
    """s = √2·ln(C − 1), AdaCos's fixed scale: a target at θ = 45° among C − 1 orthogonal others then has p = ½.

    Zhang et al., AdaCos: Adaptively Scaling Cosine Logits, 2019, arXiv:1905.00292, eq. 13.

    Raises:
      ValueError: for fewer than three classes, where it is zero or undefined.
    """
    check_count("num_classes", num_classes)
    if num_classes < 3:
        raise ValueError(f"the AdaCos scale √2·ln(C − 1) needs three classes or more, not {num_classes}: state a scale")
    return math.sqrt(2) * math.log(num_classes - 1)


def cosines(embeddings: Vectors, class_weights: ClassWeights) -> Float[Array, "N C"]:
    """cos θ between each embedding and each class, free of any margin: what predictions are read from.

    Of a class with K sub-centres it is the cosine to the nearest. In float32 at least, as the loss computes them.
    """
    x, w = jnp.asarray(embeddings), jnp.asarray(class_weights)
    dtype = wide(x.dtype, w.dtype)
    return geometry.cosines(directions(x.astype(dtype)), directions(w.astype(dtype)))


def dominant_centers(embeddings: Vectors, class_weights: ClassWeights, labels: Labels) -> Float[Array, "C D"]:
    """Of each class the sub-centre that is nearest to most of its embeddings; the first where there are none.

    The others gather what is noisy or unusual, and may be dropped after training: Deng et al., Sub-center ArcFace:
    Boosting Face Recognition by Large-scale Noisy Web Faces, 2020.

    Args:
      embeddings: [N, D], of any length.
      class_weights: [C, K, D], K sub-centres a class.
      labels: [N], integers in [0, C). A row of label −1 counts for no class, whatever it holds.

    Raises:
      ValueError: for any other label; where labels are traced, the result is NaN instead.
    """
    x, w, labels = jnp.asarray(embeddings), jnp.asarray(class_weights), as_labels(labels)
    num_classes, num_centers, _ = w.shape
    check_labels(labels, num_classes)
    dtype = wide(x.dtype, w.dtype)
    own = directions(jnp.take(w, labels, axis=0, mode="clip").astype(dtype))
    to_each = jnp.einsum("nd,nkd->nk", directions(x.astype(dtype)), own, precision=jax.lax.Precision.HIGHEST)
    # A negative index would count from the end: rows that do not count vote for a class beyond the last.
    voted = jnp.where(is_class(labels, num_classes), labels, num_classes)
    votes = jnp.zeros((num_classes, num_centers), jnp.int32).at[voted, to_each.argmax(axis=1)].add(1, mode="drop")
    centers = jnp.take_along_axis(w, votes.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    is_error = (voted == num_classes) & (labels != -1)
    return jnp.where(is_error.any(), np.nan, centers)


def limit_gradient(embeddings: Float[Array, "N D"], min_norm: Number) -> Float[Array, "N D"]:
    """The same embeddings, whose gradient is that of embeddings no shorter than `min_norm`.

    A loss of directions has a gradient that goes as 1/‖x‖. Where D is small, embeddings come near the origin: in the
    plane P(‖x‖ < r) goes as r², so that the gradient's variance is infinite, and now and then one example throws all
    weights. Here the gradient in x is multiplied by ‖x‖/min_norm where this is below one; 0 changes nothing.

    Raises:
      ValueError: for a `min_norm` that is negative or not finite.
    """
    check("min_norm", min_norm, "[0, ∞)")
    if not isinstance(min_norm, jax.Array) and min_norm == 0:
        return embeddings
    x = jax.lax.stop_gradient(embeddings)
    lengths = jnp.linalg.norm(x.astype(wide(x.dtype)), axis=1, keepdims=True)
    least = jnp.asarray(min_norm, lengths.dtype)
    # A row of label −1 may hold NaN: its share is one, so that its gradient stays zero.
    is_short = lengths < least
    share = jnp.where(is_short, lengths / jnp.where(is_short, least, 1), 1)
    return x + share.astype(x.dtype) * (embeddings - x)


def margin_softmax_loss(
    embeddings: Vectors,
    class_weights: ClassWeights,
    labels: Labels,
    *,
    margin: Margin,
    scale: Number,
    margin_grad: kernel.MarginGrad = "exact",
    min_norm: Number = 0.0,
    implementation: kernel.Implementation | None = None,
) -> Float[Array, "N"]:
    """The loss of ArcFace and its family: softmax cross-entropy over scaled cosines, with a margin on the target.

    Pure, jittable and differentiable in embeddings and class weights; the gradient is exact and finite everywhere, at
    θ = 0 and θ = π too. bfloat16 inputs are widened to float32, and so is the loss.

    >>> from jaxnets import NormFace
    >>> x, w = jnp.array([[3.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])  # parallel to the first class
    >>> loss = margin_softmax_loss(x, w, [0], margin=NormFace(), scale=1.0)
    >>> f"{loss[0]:.4f}"  # log(1 + e⁰/e¹)
    '0.3133'

    Args:
      embeddings: [N, D], of any length.
      class_weights: [C, D], of any length, a row a class; or [C, K, D], a class being as near as the nearest of its K
        sub-centres (Deng et al., Sub-center ArcFace, 2020).
      labels: [N], integers in [0, C); −1 marks a row without a class: loss 0, no gradient. Others give NaN.
      margin: one of `jaxnets.margins`, or any function (cos θ, sin θ) -> ψ of the target's angle. AdaFace and
        CurricularFace, which have statistics, are given as `margin.at(statistics, embeddings)`.
      scale: s. `adacos_scale(C)` is a good one where nothing is known.
      margin_grad: "straight_through" takes dψ/dcos θ for 1, as insightface's arcface_torch does: the loss is the
        same, and its gradient that of a loss without margin but for the probabilities, in which the margin counts.
      min_norm: embeddings shorter than this get the gradient of one so long (see `limit_gradient`); 0 leaves it exact.
      implementation: of the kernel; a name is used or refused, None chooses.

    Raises:
      ValueError: for shapes or dtypes that do not fit, a negative `min_norm`, an unknown `margin_grad`, or a margin
        without its statistics.
    """
    if isinstance(margin, AdaptiveMargin):
        raise ValueError(f"{margin} has statistics: give its .at(statistics, embeddings), see jaxnets.margins.adaptive")
    return kernel.margin_softmax(
        limit_gradient(jnp.asarray(embeddings), min_norm),
        jnp.asarray(class_weights),
        as_labels(labels),
        margin_grad=margin_grad,
        implementation=implementation,
        **_of_margin(margin, scale),
    )


def sharded_margin_softmax_loss(
    embeddings: Float[Array, "n D"],
    class_weights: Float[Array, "c D"] | Float[Array, "c K D"],
    labels: Int[Array, "n"],
    *,
    axis_name: kernel.Axes,
    margin: Margin | AdaptiveMargin,
    scale: Number,
    statistics: Statistics | None = None,
    margin_grad: kernel.MarginGrad = "exact",
    min_norm: Number = 0.0,
    num_classes: int | None = None,
    sample: float | None = None,
    key: Array | None = None,
    implementation: kernel.Implementation | None = None,
) -> Float[Array, "N"]:
    """`margin_softmax_loss` in a `jax.shard_map` whose devices have a share of the classes each, for very many of them.

    It is the loss of all rows along `axis_name`, in order, the same on each of its devices: of N, where a device brings
    n = N/P of them. With its mean as the loss, the gradients of embeddings and class weights are those of one device
    that has everything. A whole program, and the same with rows split over "data" as well:

        @jax.shard_map(mesh=mesh, in_specs=(P("class"), P("class"), P("class")), out_specs=P())
        def loss(x, w, y):
            return sharded_margin_softmax_loss(x, w, y, axis_name="class", margin=ArcFace(), scale=64.0).mean()

        rows = P(("data", "class"))
        @jax.shard_map(mesh=mesh, in_specs=(rows, P("class"), rows), out_specs=P())
        def loss(x, w, y):
            losses = sharded_margin_softmax_loss(x, w, y, axis_name="class", margin=ArcFace(), scale=64.0)
            return jax.lax.pmean(losses.mean(), "data")

    Embeddings and labels may also be split over "data" alone, P("data"), if all devices along "class" have the same
    ones: nothing is gathered then. Class weights that are the same along "data" have their gradients summed over it, by
    shard_map itself; it has to check (check_vma=True, the default). P("data") has [N] losses in the order of the rows.
    If C does not divide by the devices, append rows of any finite numbers to the class weights and state `num_classes`:

        w = jnp.pad(w, ((0, -C % P), (0, 0)))  # and num_classes=C

    What a step costs, on paper, is in `kernels.margin_softmax.sharded`.

    Args:
      embeddings: [n, D], this device's, of any length.
      class_weights: [c, D] or [c, K, D], this device's c = C/P, of classes p·c to (p + 1)·c.
      labels: [n], integers in [0, C) or −1, split as the embeddings are.
      axis_name: the mesh axis over which classes are split; or several, the first one changing slowest, as in P.
      margin: as in `margin_softmax_loss`; and AdaFace and CurricularFace as such, with
      statistics: those of such a margin, see `jaxnets.margins.sharded_update`.
      margin_grad, min_norm: as in `margin_softmax_loss`.
      num_classes: C, where the last devices' class weights are more than that; those beyond count for nothing.
      sample: a share of the classes in (0, 1], the only others that rows are held against: less work, and a loss and
        gradients that are biased, as in Partial FC (An et al., 2020, arXiv:2010.05222). The classes of all rows are
        always among them; see `kernels.margin_softmax.negative_sampling`.
      key: what the sample is drawn by: the same on all devices, and another in each step.
      implementation: "chunked", the choice of None, "pallas_gpu" or "pallas_tpu"; the latter two take no padding.

    Raises:
      NotImplementedError: from a named implementation that cannot serve these arguments.
      ValueError: as `margin_softmax_loss`; for class weights that are not split over the axis, labels split otherwise
        than embeddings, a `num_classes` or `sample` out of range, a sample without key, a margin without statistics.
    """
    embeddings, labels = kernel.gather_rows(limit_gradient(embeddings, min_norm), labels, axis_name)
    if isinstance(margin, AdaptiveMargin):
        if statistics is None:
            raise ValueError(f"{margin} has statistics: give them, see jaxnets.margins.sharded_update")
        margin = margin.at(statistics, embeddings)
    return kernel.sharded_margin_softmax(
        embeddings,
        class_weights,
        labels,
        axis_name=axis_name,
        margin_grad=margin_grad,
        num_classes=num_classes,
        sample=sample,
        key=key,
        implementation=implementation,
        **_of_margin(margin, scale),
    )


def _of_margin(margin: Margin, scale: Number) -> dict[str, Any]:
    """The kernel's arguments: the scale that is in force, and a curriculum's hard negatives."""
    check("scale", scale, "(0, ∞)")
    return {
        "margin": margin,
        "scale": scale / margin.divisor if isinstance(margin, Tutorial) else scale,
        "hard_negatives": margin.hard_negatives if isinstance(margin, Curriculum) else None,
    }
