"""Heads: the last layer of a network with its loss, its predictions and its own parameters."""

import dataclasses
from typing import Any, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxnets.adacos import AdaCos
from jaxnets.domains import Number, check, check_count, check_margin
from jaxnets.explicit_axes import between_auto_axes, of_rows
from jaxnets.inputs import Labels
from jaxnets.labels import as_labels, marked
from jaxnets.losses import margin_softmax_loss
from jaxnets.margins import AdaptiveMargin, DrawnMargin, Margin, Statistics
from kernels.margin_softmax import MarginGrad, nearest_classes
from kernels.varying import Axes

CLASS_WEIGHTS = "class_weights"  # arrays of this name have a row per class, also the optimiser's


@runtime_checkable
class Head(Protocol):
    """The methods of a head, which a class of your own may have too. One without statistics has {} for them."""

    def count_classes(self, num_outputs: int) -> int: ...
    def init(self, key: Array, num_outputs: int) -> dict[str, Any]: ...
    def init_stats(self) -> dict[str, Any]: ...
    def update_stats(
        self,
        stats: dict[str, Any],
        params: dict[str, Any],
        outputs: Float[Array, "N D"],
        labels: Int[Array, "N"],
        axis_name: Axes | None = None,
    ) -> dict[str, Any]: ...
    def loss(
        self, stats: dict[str, Any], params: dict[str, Any], outputs: Float[Array, "N D"], labels: Int[Array, "N"]
    ) -> Float[Array, "N"]: ...
    def predict(self, params: dict[str, Any], outputs: Float[Array, "N D"]) -> Int[Array, "N"]: ...


@dataclasses.dataclass(frozen=True)
class MarginHead:
    """A weight vector for each class, with `margin_softmax_loss` as the loss. It predicts the class nearest in angle.

    Predictions ignore the margin: with it, accuracy would be near zero while the classes are already separated.

    Attributes:
      num_classes: C.
      margin: one of `jaxnets.margins`. AdaFace and CurricularFace have statistics, which training updates;
        ElasticFace's margins are drawn in each step of training, and evaluation takes their mean.
      scale: s, above 0; or `AdaCos(num_classes)`, whose scale training updates.
      num_subcenters: vectors for each class, of which the nearest counts.
      margin_grad: "exact" or "straight_through", see `jaxnets.margin_softmax_loss`.
      min_norm: limits the gradient of shorter embeddings, which helps networks with few outputs (see
        `jaxnets.losses.limit_gradient`).

    Raises:
      ValueError: for a number outside its domain.
    """

    num_classes: int
    margin: Margin | AdaptiveMargin | DrawnMargin
    scale: Number | AdaCos
    num_subcenters: int = 1
    margin_grad: MarginGrad = "exact"
    min_norm: Number = 0.0

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes)
        check_margin("margin", self.margin, "ArcFace(0.5)")
        check_count("num_subcenters", self.num_subcenters)
        if not isinstance(self.scale, AdaCos):
            check("scale", self.scale, "(0, ∞)")
        check("min_norm", self.min_norm, "[0, ∞)")
        if self.margin_grad not in get_args(MarginGrad):
            raise ValueError(f"margin_grad is exact or straight_through, not {self.margin_grad!r}")

    @property
    def draws(self) -> bool:
        """Whether a step of training gives `loss` a key."""
        return isinstance(self.margin, DrawnMargin)

    def count_classes(self, num_outputs: int) -> int:
        return self.num_classes

    def init(self, key: Array, num_outputs: int) -> dict[str, Array]:
        return {CLASS_WEIGHTS: init_class_weights(key, self.num_classes, self.num_subcenters, num_outputs)}

    def init_stats(self) -> Statistics:
        of_margin = self.margin.init() if isinstance(self.margin, AdaptiveMargin) else {}
        return of_margin | (self.scale.init() if isinstance(self.scale, AdaCos) else {})

    def update_stats(
        self,
        stats: Statistics,
        params: dict[str, Array],
        embeddings: Float[Array, "N D"],
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> Statistics:
        """The statistics after a batch of training; with `axis_name`, after the whole batch over that mapped axis."""
        batch = embeddings, params[CLASS_WEIGHTS], as_labels(labels), axis_name
        if isinstance(self.margin, AdaptiveMargin):
            stats = stats | self.margin.update(_of(self.margin, stats), *batch)
        if isinstance(self.scale, AdaCos):
            stats = stats | self.scale.update(_of(self.scale, stats), *batch)
        return stats

    def loss(
        self,
        stats: Statistics,
        params: dict[str, Array],
        embeddings: Float[Array, "N D"],
        labels: Labels,
        key: Array | None = None,
        axis_name: Axes | None = None,
    ) -> Float[Array, "N"]:
        """The loss of each row; with a key, with margins drawn by it, for a share of the batch over `axis_name`."""
        margin = self.margin
        if isinstance(margin, AdaptiveMargin):
            margin = margin.at(stats, embeddings)
        return margin_softmax_loss(
            embeddings,
            params[CLASS_WEIGHTS],
            labels,
            margin=drawn_margin(margin, key, len(embeddings), axis_name) if isinstance(margin, DrawnMargin) else margin,
            scale=stats["scale"] if isinstance(self.scale, AdaCos) else self.scale,
            margin_grad=self.margin_grad,
            min_norm=self.min_norm,
        )

    def predict(self, params: dict[str, Array], embeddings: Float[Array, "N D"]) -> Int[Array, "N"]:
        x = jnp.asarray(embeddings)
        found: Array = between_auto_axes(nearest_classes, x, params[CLASS_WEIGHTS], out=lambda: of_rows(x))
        return found


def _of(part: AdaptiveMargin | AdaCos, stats: Statistics) -> Statistics:
    """The statistics of a margin or a scale, out of a head's."""
    return {name: stats[name] for name in part.init()}


def init_class_weights(
    key: Array, num_classes: int, num_subcenters: int, num_outputs: int
) -> Float[Array, "C D"] | Float[Array, "C K D"]:
    """From the standard normal, as `torch.randn` gives them; without an axis for sub-centres where there is one."""
    subcenters = () if num_subcenters == 1 else (num_subcenters,)
    return jax.random.normal(key, (num_classes, *subcenters, num_outputs))


def drawn_margin(margin: DrawnMargin, key: Array | None, num_rows: int, axis_name: Axes | None) -> Margin:
    """The margin of a step's rows, or, without a key, their mean."""
    # Not the key that draws a sample of the classes.
    return margin.mean if key is None else margin.drawn(jax.random.fold_in(key, 1), num_rows, axis_name)


@dataclasses.dataclass(frozen=True)
class ScoresHead:
    """For networks whose outputs are scores: softmax cross-entropy, without parameters and statistics."""

    def count_classes(self, num_outputs: int) -> int:
        return num_outputs

    def init(self, key: Array, num_outputs: int) -> dict[str, Array]:
        return {}

    def init_stats(self) -> Statistics:
        return {}

    def update_stats(
        self,
        stats: Statistics,
        params: dict[str, Array],
        scores: Float[Array, "N C"],
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> Statistics:
        return stats

    def loss(
        self, stats: Statistics, params: dict[str, Array], scores: Float[Array, "N C"], labels: Labels
    ) -> Float[Array, "N"]:
        """Cross-entropy [N]; 0 without a gradient for label −1, NaN for any other that is no class."""
        num_classes = scores.shape[1]
        labels = as_labels(labels)
        kept = jnp.where((labels == -1)[:, None], 0, scores)  # a row of label −1 may hold anything
        losses = optax.softmax_cross_entropy_with_integer_labels(kept, labels.clip(0, num_classes - 1))
        return marked(losses, labels, num_classes)

    def predict(self, params: dict[str, Array], scores: Float[Array, "N C"]) -> Int[Array, "N"]:
        return scores.argmax(axis=1)
