"""Embeddings, class weights and labels in; a loss for each example out."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import kernels.margin_softmax as kernel
from jaxnets.domains import Number, check, check_count, check_margin
from jaxnets.explicit_axes import between_auto_axes, of_rows
from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.labels import as_labels, marked
from jaxnets.margins import AdaptiveMargin, Curriculum, Margin, OfMagnitude, Statistics, Tutorial
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
    """cos θ between each embedding and each class, without a margin: the scores for predictions.

    For a class with K sub-centres it is the cosine to the nearest. Computed in float32, or float64 if an input is.
    """

    def to_each(x: Array, w: Array) -> Float[Array, "N C"]:
        dtype = wide(x.dtype, w.dtype)
        return geometry.cosines(directions(x.astype(dtype)), directions(w.astype(dtype)))

    x = jnp.asarray(embeddings)
    found: Float[Array, "N C"] = between_auto_axes(to_each, x, jnp.asarray(class_weights), out=lambda: of_rows(x))
    return found


def limit_gradient(embeddings: Float[Array, "N D"], min_norm: Number) -> Float[Array, "N D"]:
    """The same embeddings, but shorter ones than `min_norm` get the gradient of embeddings of that length.

    The gradient of a loss of directions is proportional to 1/‖x‖. For small D embeddings come near the origin: in the
    plane P(‖x‖ < r) is proportional to r², so the variance of the gradient is infinite, and now and then a single
    example changes all weights. This function multiplies the gradient in x by ‖x‖/min_norm where that is below 1;
    `min_norm=0` changes nothing.

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

    Pure, jittable and differentiable in embeddings, class weights, scale and the numbers of the margin. The gradient is
    exact and finite everywhere, including θ = 0 and θ = π. The loss is float32 for bfloat16 inputs too.

    >>> from jaxnets import NormFace
    >>> x, w = jnp.array([[3.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])  # parallel to the first class
    >>> loss = margin_softmax_loss(x, w, [0], margin=NormFace(), scale=1.0)
    >>> f"{loss[0]:.4f}"  # log(1 + e⁰/e¹)
    '0.3133'

    Args:
      embeddings: [N, D], of any length.
      class_weights: [C, D], a row per class, of lengths in 1e-18…1e18 or 0 (of any other the loss is NaN, except for
        implementation "reference", which takes all); or [C, K, D], where the nearest of K sub-centres counts (Deng et
        al., Sub-center ArcFace, 2020).
      labels: [N], integers in [0, C); −1 marks a row without a class: loss 0, no gradient, whatever the row holds. Any
        other label gives NaN.
      margin: one of `jaxnets.margins`, or any function (cos θ, sin θ) -> ψ of the target's angle. AdaFace and
        CurricularFace, which have statistics, and MagFace are given as `margin.at(statistics, embeddings)`.
      scale: s, above 0. `adacos_scale(C)` is a good start.
      margin_grad: "straight_through" takes dψ/dcos θ as 1, as insightface's arcface_torch does: the loss is the same,
        and the margin affects the gradient through the probabilities only.
      min_norm: embeddings shorter than this get the gradient of that length (see `limit_gradient`); 0: the exact one.
      implementation: of the kernel. A name is used or refused; None chooses.

    Raises:
      ValueError: for shapes or dtypes that do not fit, a scale or `min_norm` outside its domain, an unknown
        `margin_grad`, or a margin without its statistics.
    """
    check_margin("margin", margin, "ArcFace(0.5)")
    if isinstance(margin, AdaptiveMargin):
        raise ValueError(f"{margin} has statistics: give its .at(statistics, embeddings), see jaxnets.margins.adaptive")

    def losses(x: Array, w: Array, labels: Array, numbers: tuple[Any, Any, Any]) -> Float[Array, "N"]:
        margin, scale, min_norm = numbers
        made = kernel.margin_softmax(
            limit_gradient(x, min_norm),
            w,
            labels,
            margin_grad=margin_grad,
            implementation=implementation,
            **_of_margin(margin, scale),
        )
        return _with_penalty(made, margin, labels, w.shape[0])

    x, w, numbers = jnp.asarray(embeddings), jnp.asarray(class_weights), (margin, scale, min_norm)
    made: Array = between_auto_axes(losses, x, w, as_labels(labels), numbers, out=lambda: of_rows(x))
    return made


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
    drawn: kernel.Drawn | None = None,
    implementation: kernel.Implementation | None = None,
) -> Float[Array, "N"]:
    """`margin_softmax_loss` in a `jax.shard_map` over P devices with a share of the classes each.

    Each device brings n = N/P rows and gets the losses of all N rows along `axis_name`, in their order. If the mean of
    these is the loss, embeddings and class weights get the same gradients as on a single device that has everything.
    A whole program, and the same with rows split over "data" as well:

        @jax.shard_map(mesh=mesh, in_specs=(P("class"), P("class"), P("class")), out_specs=P())
        def loss(x, w, y):
            return sharded_margin_softmax_loss(x, w, y, axis_name="class", margin=ArcFace(), scale=64.0).mean()

        rows = P(("data", "class"))
        @jax.shard_map(mesh=mesh, in_specs=(rows, P("class"), rows), out_specs=P())
        def loss(x, w, y):
            losses = sharded_margin_softmax_loss(x, w, y, axis_name="class", margin=ArcFace(), scale=64.0)
            return jax.lax.pmean(losses.mean(), "data")

    Embeddings and labels may also be split over "data" only, P("data"), if all devices along "class" have the same
    rows: nothing is gathered then. If class weights are the same along "data", shard_map sums their gradients over it,
    for which it must check (check_vma=True, the default). With out_specs P("data") the losses are in the order of the
    rows. If C does not divide by the devices, append rows to the class weights and give `num_classes`:

        w = jnp.pad(w, ((0, -C % P), (0, 0)))  # and num_classes=C

    (`jaxnets.checkpoint.save` with `num_classes` saves them without these rows.) `kernels.margin_softmax.sharded`
    estimates the cost of a step.

    Args:
      embeddings: [n, D], this device's, of any length.
      class_weights: [c, D] or [c, K, D], this device's c = C/P, of classes p·c to (p + 1)·c; of lengths in 1e-18…1e18
        or 0, and for any other the loss is NaN.
      labels: [n], integers in [0, C) or −1, split as the embeddings are.
      axis_name: the mesh axis over which classes are split; or several, the first one changing slowest, as in P.
      margin: as in `margin_softmax_loss`; also AdaFace, CurricularFace or MagFace itself, with `statistics`.
      statistics: of such a margin, see `jaxnets.margins.sharded_update`.
      margin_grad, min_norm: as in `margin_softmax_loss`.
      num_classes: C, if there are more class weights than classes; the last rows do not count, whatever they hold.
      sample: a share of the classes in (0, 1]. Rows are compared with these classes only, which saves work and makes
        the loss and its gradients biased, as in Partial FC (An et al., 2020, arXiv:2010.05222). The classes of all rows
        are always among them. Which others, depends on the key and on their numbers alone, not on the devices; see
        `kernels.margin_softmax.negative_sampling`.
      key: draws the sample; the same on all devices, and another one in each step.
      drawn: in place of sample and key, a sample that `kernels.margin_softmax.draw_classes` drew before. The class
        weights are then `drawn.of` this device's, so that their gradient has rows of the drawn classes alone.
      implementation: "chunked", the choice of None, "pallas_gpu" or "pallas_tpu"; the latter two take no padding and no
        sample.

    Raises:
      NotImplementedError: from a named implementation that cannot serve these arguments.
      ValueError: as `margin_softmax_loss`; for class weights not split over the axis, labels split otherwise than
        embeddings, a `num_classes` or `sample` outside its domain, a sample without key or beside `drawn`, a margin
        without statistics.
    """
    check_margin("margin", margin, "ArcFace(0.5)")
    embeddings, labels = kernel.gather_rows(limit_gradient(embeddings, min_norm), labels, axis_name)
    if isinstance(margin, AdaptiveMargin):
        if statistics is None:
            raise ValueError(f"{margin} has statistics: give them, see jaxnets.margins.sharded_update")
        margin = margin.at(statistics, embeddings)
    if sample is not None or key is not None:
        if drawn is not None:
            raise ValueError("the classes are drawn already: give drawn, or sample and key")
        drawn = kernel.draw_classes(key, sample, labels, class_weights, axis_name, num_classes)
        class_weights = drawn.of(class_weights)
    made = kernel.sharded_margin_softmax(
        embeddings,
        class_weights,
        labels,
        axis_name=axis_name,
        margin_grad=margin_grad,
        num_classes=num_classes,
        drawn=drawn,
        implementation=implementation,
        **_of_margin(margin, scale),
    )
    total = num_classes or kernel.num_classes_here(class_weights, drawn) * jax.lax.axis_size(axis_name)
    return _with_penalty(made, margin, labels, total, axis_name)


def _with_penalty(
    losses: Float[Array, "N"],
    margin: Margin,
    labels: Int[Array, "N"],
    num_classes: int,
    axis_name: kernel.Axes | None = None,
) -> Float[Array, "N"]:
    """MagFace's losses; any other margin's losses unchanged."""
    if not isinstance(margin, OfMagnitude):
        return losses
    penalty = marked(margin.penalty, labels, num_classes).astype(losses.dtype)
    # Every device along the axis has the same rows, whose gradients are summed: each has its share of them.
    return losses + (penalty if axis_name is None else jax.lax.pmean(penalty, axis_name))


def _of_margin(margin: Margin, scale: Number) -> dict[str, Any]:
    """The kernel's arguments: the scale that is in force, and a curriculum's hard negatives."""
    check("scale", scale, "(0, ∞)")
    return {
        "margin": margin,
        "scale": scale / margin.divisor if isinstance(margin, Tutorial) else scale,
        "hard_negatives": margin.hard_negatives if isinstance(margin, Curriculum) else None,
    }
