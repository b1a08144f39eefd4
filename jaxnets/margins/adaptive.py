"""Margins that follow the training, by statistics of the batches seen so far.

The statistics are arrays of the caller's, in and out; nothing is kept here. By hand, with the margin as AdaFace(0.4):

    statistics = margin.init()
    # and for each batch
    statistics = margin.update(statistics, embeddings, class_weights, labels)
    now = margin.at(statistics, embeddings)
    losses = margin_softmax_loss(embeddings, class_weights, labels, margin=now, scale=64.0)

As in the authors' codes, a batch counts in the statistics that its own loss is taken with, and no gradient flows
through them. Evaluation leaves `update` out. `jaxnets.MarginHead` does all this, with `TrainState.head_stats`.
"""

import dataclasses
import math
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxnets.margins.fixed import ArcFace, Margin
from kernels.margin_softmax import Axes, HardNegatives, gather_rows, own_labels
from kernels.margin_softmax.geometry import directions, target_cos_sin
from kernels.varying import varying_axes

Statistics: TypeAlias = dict[str, Array]

ClassWeights: TypeAlias = Float[Array, "C D"] | Float[Array, "C K D"]


@runtime_checkable
class AdaptiveMargin(Protocol):
    """What a margin with statistics has, one of your own too."""

    def init(self) -> Statistics:
        """What the statistics are before the first batch, float32."""

    def update(
        self,
        statistics: Statistics,
        embeddings: Float[Array, "N D"],
        class_weights: ClassWeights,
        labels: Int[Array, "N"],
        axis_name: Axes | None = None,
    ) -> Statistics:
        """The statistics after one more batch.

        With `axis_name` these are of the whole batch over that mapped axis, or those, and the same on each device. Rows
        labelled −1 do not count; a batch of no others changes nothing.
        """

    def at(self, statistics: Statistics, embeddings: Float[Array, "N D"]) -> Margin:
        """The margin of these embeddings, as `margin_softmax_loss` takes it."""


def sharded_update(
    margin: AdaptiveMargin,
    statistics: Statistics,
    embeddings: Float[Array, "n D"],
    class_weights: Float[Array, "c D"] | Float[Array, "c K D"],
    labels: Int[Array, "n"],
    axis_name: Axes,
    num_classes: int | None = None,
) -> Statistics:
    """`margin.update` where each device has a share of the classes, as for `jaxnets.sharded_margin_softmax_loss`.

    The statistics are those of the whole batch, over all mesh axes that its rows are split over. Each row is counted
    once, where its class is.

    Raises:
      ValueError: as `sharded_margin_softmax_loss`.
    """
    embeddings, labels = gather_rows(jax.lax.stop_gradient(embeddings), labels, axis_name)
    own = own_labels(labels, class_weights, axis_name, num_classes)
    everywhere = tuple(varying_axes(embeddings) | varying_axes(own))
    return margin.update(statistics, embeddings, class_weights, own, everywhere)


@dataclasses.dataclass(frozen=True)
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

    m: float = 0.4
    h: float = 0.333
    t_alpha: float = 0.01

    def init(self) -> Statistics:
        return {"mean": jnp.full((), 20, jnp.float32), "std": jnp.full((), 100, jnp.float32)}

    def update(
        self,
        statistics: Statistics,
        embeddings: Float[Array, "N D"],
        class_weights: ClassWeights,
        labels: Int[Array, "N"],
        axis_name: Axes | None = None,
    ) -> Statistics:
        lengths = _lengths(embeddings, statistics["mean"].dtype)
        mean, count = _mean(lengths, labels, axis_name)
        variance, _ = _mean((lengths - mean) ** 2, labels, axis_name)
        of_batch = {"mean": mean, "std": jnp.sqrt(variance * count / jnp.maximum(count - 1, 1))}
        return _moved(statistics, of_batch, self.t_alpha, count)

    def at(self, statistics: Statistics, embeddings: Float[Array, "N D"]) -> Margin:
        mean, std = statistics["mean"], statistics["std"]
        lengths = _lengths(embeddings, mean.dtype)
        quality = jnp.clip(self.h * (lengths - mean) / (std + 1e-3), -1, 1)

        def margin(cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
            z = quality.astype(cos_theta.dtype)
            with_margin = jnp.arctan2(sin_theta, cos_theta) - self.m * z
            return jnp.cos(jnp.clip(with_margin, 1e-3, math.pi - 1e-3)) - (self.m * z + self.m)

        return margin


@dataclasses.dataclass(frozen=True)
class CurricularFace:
    """ArcFace's ψ; and a negative nearer than the target with its margin, c > cos(θ + m), counts as c·(t + c).

    t is the running mean of the targets' cosines, to which a batch adds a hundredth: near 0 at first, when hard
    negatives are made easier, and growing as the classes separate, until they weigh more than their cosine.

    Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition, 2020, arXiv:2004.00288.
    As in the authors' code, t begins at 0 and has no gradient, and neither has the choice of the hard ones; c·(t + c)
    has its own, t + 2c; and past π − m the target's ψ is the classic one, while hard is still what exceeds cos(θ + m).
    """

    m: float = 0.5

    def init(self) -> Statistics:
        return {"t": jnp.zeros((), jnp.float32)}

    def update(
        self,
        statistics: Statistics,
        embeddings: Float[Array, "N D"],
        class_weights: ClassWeights,
        labels: Int[Array, "N"],
        axis_name: Axes | None = None,
    ) -> Statistics:
        dtype = statistics["t"].dtype
        x, w = (jax.lax.stop_gradient(vectors).astype(dtype) for vectors in (embeddings, class_weights))
        cos_theta, _ = target_cos_sin(directions(x), directions(w), labels)
        mean, count = _mean(cos_theta, labels, axis_name)
        return _moved(statistics, {"t": mean}, 0.01, count)

    def at(self, statistics: Statistics, embeddings: Float[Array, "N D"]) -> Margin:
        return Curriculum(self.m, statistics["t"])


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """CurricularFace at one moment: what it makes of the target, and of hard negatives."""

    m: float
    t: Float[Array, ""]

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return ArcFace(self.m)(cos_theta, sin_theta)

    @property
    def hard_negatives(self) -> HardNegatives:
        return HardNegatives(self.t, threshold=ArcFace(self.m, beyond="rising"))


def _lengths(embeddings: Float[Array, "N D"], dtype: jnp.dtype) -> Float[Array, "N"]:
    lengths = jnp.linalg.norm(jax.lax.stop_gradient(embeddings).astype(dtype), axis=1)
    return jnp.clip(lengths, 1e-3, 100)


def _mean(
    values: Float[Array, "N"], labels: Int[Array, "N"], axis_name: Axes | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean over the rows that have a class, on all devices of the axis, and how many they are."""
    has_class = labels >= 0
    sums = jnp.where(has_class, values, 0).sum(), has_class.sum(dtype=values.dtype)
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    return total / jnp.maximum(count, 1), count


def _moved(before: Statistics, of_batch: Statistics, share: float, count: Float[Array, ""]) -> Statistics:
    return {
        name: jnp.where(count > 0, share * of_batch[name] + (1 - share) * value, value)
        for name, value in before.items()
    }
