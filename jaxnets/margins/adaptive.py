"""Margins that depend on statistics of the batches seen so far.

The statistics are arrays that the caller keeps. For example, with margin = AdaFace(0.4):

    statistics = margin.init()
    # and for each batch
    statistics = margin.update(statistics, embeddings, class_weights, labels)
    now = margin.at(statistics, embeddings)
    losses = margin_softmax_loss(embeddings, class_weights, labels, margin=now, scale=64.0)

As in the authors' codes, the loss of a batch uses statistics that include this batch, and no gradient flows through
them. Evaluation does not call `update`. `jaxnets.MarginHead` does all this, with `TrainState.head_stats`.
"""

import math
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnets.domains import check
from jaxnets.explicit_axes import between_auto_axes, of_rows
from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.labels import as_labels, count_of, is_class, marked
from jaxnets.margins.fixed import ArcFace, Margin
from jaxnets.margins.value import Numbers, like, value
from kernels.margin_softmax import Axes, Drawn, HardNegatives, gather_rows, num_classes_here, own_labels
from kernels.margin_softmax.geometry import directions, target_cos_sin
from kernels.varying import varying_axes

Statistics: TypeAlias = dict[str, Array]


@runtime_checkable
class AdaptiveMargin(Protocol):
    """The methods of a margin with statistics, which a class of your own may have too."""

    def init(self) -> Statistics:
        """The statistics before the first batch, float32."""

    def update(
        self,
        statistics: Statistics,
        embeddings: Vectors,
        class_weights: ClassWeights,
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> Statistics:
        """The statistics after one more batch.

        With `axis_name` they include the whole batch over that mapped axis, or axes, and are the same on each device.
        Rows of label −1 do not count, whatever they hold; a batch without other rows changes nothing. Any other label
        that is no class makes the statistics NaN.
        """

    def at(self, statistics: Statistics, embeddings: Vectors) -> Margin:
        """The margin of these embeddings, as `margin_softmax_loss` takes it."""


def sharded_update(
    margin: AdaptiveMargin,
    statistics: Statistics,
    embeddings: Float[Array, "n D"],
    class_weights: Float[Array, "c D"] | Float[Array, "c K D"],
    labels: Int[Array, "n"],
    axis_name: Axes,
    num_classes: int | None = None,
    drawn: Drawn | None = None,
) -> Statistics:
    """`margin.update` for devices with a share of the classes each, as in `jaxnets.sharded_margin_softmax_loss`.

    The statistics include the whole batch, over all mesh axes that split its rows. Each row is counted once, on the
    device that has its class.

    Raises:
      ValueError: as `sharded_margin_softmax_loss`.
    """
    embeddings, labels = gather_rows(jax.lax.stop_gradient(embeddings), as_labels(labels), axis_name)
    own = own_labels(labels, class_weights, axis_name, num_classes, drawn)
    most = num_classes_here(class_weights, drawn) * jax.lax.axis_size(axis_name)
    is_none = ~is_class(labels, num_classes or most) & (labels != -1)
    own = jnp.where(is_none, class_weights.shape[0], own)  # no class of this device's either
    everywhere = tuple(varying_axes(embeddings) | varying_axes(own))
    return margin.update(statistics, embeddings, class_weights, own, everywhere)


@value
class AdaFace:
    """ψ_i = cos(θ + g_angle) − g_add with g_angle = −m·ẑ_i and g_add = m·ẑ_i + m: the margin follows the length.

    ẑ_i = clip(h·(‖x_i‖ − μ)/σ, −1, 1) stands for the quality of an image; h makes about two thirds of them lie within
    ±h. At ẑ = −1 it is ArcFace's margin, at 0 CosFace's, and at 1 ψ = cos(θ − m) − 2m. μ and σ are running mean and
    (unbiased) deviation of the lengths, to which a batch adds the share `t_alpha`.

    Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition, 2022, arXiv:2204.00964. What the paper leaves
    open is as in the authors' code: lengths are clipped to 0.001…100, μ and σ begin at 20 and 100, σ has 0.001 added,
    θ + g_angle is clipped to 0.001…π − 0.001, beyond which ψ has no gradient, and none flows through the lengths.

    One thing is not: that code clips every cosine, of targets and others, to ±0.999 for the sake of `acos`, and an
    embedding within 2.6° of a class gets no gradient from it. Here θ is exact, and no cosine is clipped.
    """

    m: Numbers = 0.4
    h: Numbers = 0.333
    t_alpha: Numbers = 0.01

    def __post_init__(self) -> None:
        check("AdaFace's m", self.m, "[0, π/2]", unit="radians")
        check("AdaFace's h", self.h, "[0, ∞)")
        check("AdaFace's t_alpha", self.t_alpha, "(0, 1]")

    def init(self) -> Statistics:
        return {"mean": jnp.full((), 20, jnp.float32), "std": jnp.full((), 100, jnp.float32)}

    def update(
        self,
        statistics: Statistics,
        embeddings: Vectors,
        class_weights: ClassWeights,
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> Statistics:
        labels = as_labels(labels)
        lengths, num_classes = _lengths(embeddings, statistics["mean"].dtype), np.shape(class_weights)[0]
        mean, count = _mean(lengths, labels, num_classes, axis_name)
        variance, _ = _mean((lengths - mean) ** 2, labels, num_classes, axis_name)
        of_batch = {"mean": mean, "std": jnp.sqrt(variance * count / jnp.maximum(count - 1, 1))}
        return _moved(statistics, of_batch, self.t_alpha, count)

    def at(self, statistics: Statistics, embeddings: Vectors) -> Margin:
        mean, std = statistics["mean"], statistics["std"]
        lengths = _lengths(embeddings, mean.dtype)
        quality = jnp.clip(like(self.h, lengths) * (lengths - mean) / (std + 1e-3), -1, 1)
        # A row of label −1 may hold NaN, and must not reach any gradient; of other rows the cosine is NaN already.
        return OfQuality(self.m, jnp.where(jnp.isnan(lengths), 0, quality))


@value
class OfQuality:
    """AdaFace's ψ for embeddings of known quality ẑ, [N]."""

    m: Numbers
    quality: Float[Array, "N"]

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        z, m = self.quality.astype(cos_theta.dtype), like(self.m, cos_theta)
        with_margin = jnp.arctan2(sin_theta, cos_theta) - m * z
        return jnp.cos(jnp.clip(with_margin, 1e-3, math.pi - 1e-3)) - (m * z + m)


@value
class CurricularFace:
    """ArcFace's ψ; and a negative nearer than the target with its margin, c > cos(θ + m), counts as c·(t + c).

    t is the running mean of the targets' cosines, to which a batch adds a hundredth: near 0 at first, when hard
    negatives are made easier, and growing as the classes separate, until they weigh more than their cosine.

    Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition, 2020, arXiv:2004.00288.
    As in the authors' code, t begins at 0 and has no gradient, and neither has the choice of the hard ones; c·(t + c)
    has its own, t + 2c; and past π − m the target's ψ is the classic one, while a negative is still hard if it exceeds
    cos(θ + m).
    """

    m: Numbers = 0.5

    def __post_init__(self) -> None:
        check("CurricularFace's m", self.m, "[0, π/2]", unit="radians")

    def init(self) -> Statistics:
        return {"t": jnp.zeros((), jnp.float32)}

    def update(
        self,
        statistics: Statistics,
        embeddings: Vectors,
        class_weights: ClassWeights,
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> Statistics:
        labels, dtype = as_labels(labels), statistics["t"].dtype
        x, w = (jax.lax.stop_gradient(jnp.asarray(vectors)).astype(dtype) for vectors in (embeddings, class_weights))

        def to_targets(x: Array, w: Array, labels: Array) -> Float[Array, "N"]:
            return target_cos_sin(directions(x), directions(w), labels)[0]

        cos_theta = between_auto_axes(to_targets, x, w, labels, out=lambda: of_rows(x))
        mean, count = _mean(cos_theta, labels, w.shape[0], axis_name)
        return _moved(statistics, {"t": mean}, 0.01, count)

    def at(self, statistics: Statistics, embeddings: Vectors) -> Margin:
        return Curriculum(self.m, statistics["t"])


@value
class Curriculum:
    """CurricularFace at one moment: its function of the target's angle, and of hard negatives' cosines."""

    m: Numbers
    t: Float[Array, ""]

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return ArcFace(self.m)(cos_theta, sin_theta)

    @property
    def hard_negatives(self) -> HardNegatives:
        return HardNegatives(self.t, threshold=ArcFace(self.m, beyond="rising"))


def _lengths(embeddings: Vectors, dtype: jnp.dtype) -> Float[Array, "N"]:
    lengths = jnp.linalg.norm(jax.lax.stop_gradient(jnp.asarray(embeddings)).astype(dtype), axis=1)
    return jnp.clip(lengths, 1e-3, 100)


def _mean(
    values: Float[Array, "N"], labels: Int[Array, "N"], num_classes: int, axis_name: Axes | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean over the rows whose label is not −1, on all devices of the axis, and the number of these rows."""
    sums = marked(values, labels, num_classes).sum(), count_of(labels).astype(values.dtype)
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    return total / jnp.maximum(count, 1), count


def _moved(before: Statistics, of_batch: Statistics, share: Numbers, count: Float[Array, ""]) -> Statistics:
    def moved(old: Array, new: Array) -> Array:
        part = like(share, old)
        return jnp.where(count > 0, part * new + (1 - part) * old, old)

    return {name: moved(old, of_batch[name]) for name, old in before.items()}
