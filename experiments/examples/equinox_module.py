"""An Equinox network and an optax optimiser of one's own, with the loss and the evaluation of jaxnets.

pip install equinox && python -m experiments.examples.equinox_module

Trains on the digits 0 to 6, and prints how well the embeddings retrieve the digits 7, 8 and 9, which it never saw.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer

from jaxnets import ArcFace, load, margin_softmax_loss
from jaxnets.recognition import retrieval

SEEN = 7  # digits below are trained on


class Network(eqx.Module):
    """Two convolutions, and class weights [C, D] beside them."""

    layers: eqx.nn.Sequential
    class_weights: Float[Array, "C D"]

    def __init__(self, num_classes: int, dimensions: int, key: Array) -> None:
        first, second, last, weights = jax.random.split(key, 4)
        self.layers = eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(1, 16, 5, stride=2, padding=2, key=first),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv2d(16, 32, 5, stride=2, padding=2, key=second),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(32 * 7 * 7, dimensions, key=last),
            ]
        )
        self.class_weights = jax.random.normal(weights, (num_classes, dimensions))

    def __call__(self, images: Integer[Array, "N 28 28 1"]) -> Float[Array, "N D"]:
        x = images.astype(jnp.float32) / 255
        embeddings: Array = jax.vmap(self.layers)(x.transpose(0, 3, 1, 2))  # Equinox has the channels first
        return embeddings


@eqx.filter_jit
def train_step(
    network: Network,
    opt_state: Any,
    optimizer: optax.GradientTransformation,
    images: Integer[Array, "N 28 28 1"],
    labels: Integer[Array, "N"],
) -> tuple[Network, Any, Float[Array, ""]]:
    """The network and the optimiser's state after a step, and the mean loss before it."""

    def loss_of(network: Network) -> Float[Array, ""]:
        losses = margin_softmax_loss(network(images), network.class_weights, labels, margin=ArcFace(0.3), scale=16.0)
        return losses.mean()

    loss, gradients = eqx.filter_value_and_grad(loss_of)(network)
    updates, opt_state = optimizer.update(gradients, opt_state, eqx.filter(network, eqx.is_array))
    return eqx.apply_updates(network, updates), opt_state, loss


def train(steps: int = 300, batch_size: int = 128) -> Network:
    """A network trained on the seen digits, from seed 0."""
    mnist = load("mnist").train
    images, labels = mnist.images[mnist.labels < SEEN], mnist.labels[mnist.labels < SEEN]
    network = Network(SEEN, 32, jax.random.key(0))
    optimizer = optax.adamw(1e-3)
    opt_state = optimizer.init(eqx.filter(network, eqx.is_array))
    random = np.random.default_rng(0)
    for _ in range(steps):
        rows = random.integers(len(labels), size=batch_size)
        network, opt_state, _ = train_step(
            network, opt_state, optimizer, jnp.asarray(images[rows]), jnp.asarray(labels[rows])
        )
    return network


def main() -> None:
    test = load("mnist").test
    unseen = test.labels >= SEEN
    network = train()
    print(retrieval(eqx.filter_jit(network)(jnp.asarray(test.images[unseen])), test.labels[unseen]))


if __name__ == "__main__":
    main()
