"""AdaCos: a scale that follows the training, for a softmax over cosines without a margin.

The caller keeps the statistics, as in `jaxnets.margins.adaptive`. With adacos = AdaCos(num_classes):

    statistics = adacos.init()
    # and for each batch
    statistics = adacos.update(statistics, embeddings, class_weights, labels)
    losses = margin_softmax_loss(embeddings, class_weights, labels, margin=NormFace(), scale=statistics["scale"])
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.labels import as_labels, count_of, is_class
from jaxnets.losses import adacos_scale, margin_softmax_loss
from jaxnets.margins import Statistics
from kernels.margin_softmax import Axes
from kernels.margin_softmax.geometry import directions, target_cos_sin
from kernels.precision import wide


@dataclasses.dataclass(frozen=True)
class AdaCos:
    """s(t) = log B / cos(min(π/4, θ_med)): the steepest probability is kept at the batch's typical angle.

    B is the mean over rows of Σ_{j≠y} exp(s(t−1)·cos θ_j), and θ_med the median of the rows' angles to their own class.
    It starts at s(0) = √2·ln(C − 1).

    Zhang et al., AdaCos: Adaptively Scaling Cosine Logits, 2019, arXiv:1905.00292, eq. 15. Of an even number of angles
    the median is the mean of the middle two. A batch without a class, or with log B ≤ 0, changes nothing.

    Raises:
      ValueError: for fewer than three classes.
    """

    num_classes: int

    def __post_init__(self) -> None:
        adacos_scale(self.num_classes)

    def init(self) -> Statistics:
        return {"scale": jnp.full((), adacos_scale(self.num_classes), jnp.float32)}

    def update(
        self,
        statistics: Statistics,
        embeddings: Vectors,
        class_weights: ClassWeights,
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> Statistics:
        """The scale after one more batch; no gradient flows through it.

        With `axis_name` it follows from the whole batch over that mapped axis, or axes, and is equal on each device.
        Rows of label −1 do not count; any other label that is no class makes the scale NaN.
        """
        of_rows, before = as_labels(labels), statistics["scale"]
        x, w = (lax.stop_gradient(jnp.asarray(vectors)) for vectors in (embeddings, class_weights))
        dtype = wide(x.dtype, w.dtype)
        counts = of_rows != -1
        # With ψ = 0 the loss is log(1 + exp(L)), L = log Σ_{j≠y} exp(s·cos θ_j): no N×C array is made for it.
        losses = margin_softmax_loss(x, w, of_rows, margin=_without_target, scale=before)
        logs = jnp.where(counts, losses + jnp.log(-jnp.expm1(-losses)), -jnp.inf)
        cos_theta, sin_theta = target_cos_sin(
            directions(jnp.where(counts[:, None], x, 0).astype(dtype)), directions(w.astype(dtype)), of_rows
        )
        theta = jnp.where(counts, jnp.arctan2(sin_theta, cos_theta), jnp.inf)
        is_error = counts & ~is_class(of_rows, w.shape[0])
        if axis_name is not None:
            logs, theta, of_rows, is_error = (
                lax.all_gather(array, axis_name, tiled=True, to="invarying")
                for array in (logs, theta, of_rows, is_error)
            )
        count = count_of(of_rows)
        log_mean = jax.nn.logsumexp(logs) - jnp.log(count.astype(dtype))
        now = (log_mean / jnp.cos(jnp.minimum(math.pi / 4, _median(theta, count)))).astype(before.dtype)
        changed = jnp.where((count > 0) & ~(now <= 0), now, before)
        return {"scale": lax.stop_gradient(jnp.where(is_error.any(), jnp.nan, changed))}


def _without_target(cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
    return jnp.zeros_like(cos_theta)


def _median(values: Float[Array, "N"], count: Array) -> Float[Array, ""]:
    """Of the `count` smallest values."""
    middle = jnp.stack([(count - 1) // 2, count // 2]).clip(0)
    return jnp.sort(values)[middle].mean()
