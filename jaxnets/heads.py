"""What stands between a network's outputs and its loss, with parameters of its own."""

import dataclasses

import jax
from jaxtyping import Array, Float, Int

from jaxnets.losses import cosines, margin_softmax_loss
from jaxnets.margins import Margin


@dataclasses.dataclass(frozen=True)
class MarginHead:
    """A weight vector for each class; the loss is `margin_softmax_loss`, a prediction the class nearest in angle.

    Predictions are free of the margin: with it, accuracy would read near zero while the classes are already apart.
    """

    num_classes: int
    margin: Margin
    scale: float

    def init(self, key: Array, num_outputs: int) -> dict[str, Array]:
        """Class weights [C, D] from the standard normal, as `torch.randn` gives them."""
        return {"class_weights": jax.random.normal(key, (self.num_classes, num_outputs))}

    def loss(
        self, params: dict[str, Array], embeddings: Float[Array, "N D"], labels: Int[Array, "N"]
    ) -> Float[Array, "N"]:
        return margin_softmax_loss(embeddings, params["class_weights"], labels, margin=self.margin, scale=self.scale)

    def predict(self, params: dict[str, Array], embeddings: Float[Array, "N D"]) -> Int[Array, "N"]:
        return cosines(embeddings, params["class_weights"]).argmax(axis=1)
