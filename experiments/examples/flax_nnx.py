"""A Flax NNX network and an optax optimiser of one's own, with the loss and the evaluation of jaxnets.

python -m experiments.examples.flax_nnx

Trains on the digits 0 to 6, and prints how well the embeddings retrieve the digits 7, 8 and 9, which it never saw.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Integer

from jaxnets import ArcFace, load, margin_softmax_loss
from jaxnets.recognition import retrieval

SEEN = 7  # digits below are trained on


class Network(nnx.Module):
    """Two convolutions, and class weights [C, D] beside them."""

    def __init__(self, num_classes: int, dimensions: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 16, (5, 5), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (5, 5), strides=2, rngs=rngs)
        self.last = nnx.Linear(7 * 7 * 32, dimensions, rngs=rngs)
        self.class_weights = nnx.Param(jax.random.normal(rngs.params(), (num_classes, dimensions)))

    def __call__(self, images: Integer[Array, "N 28 28 1"]) -> Float[Array, "N D"]:
        x = images.astype(jnp.float32) / 255
        x = nnx.relu(self.second(nnx.relu(self.first(x))))
        return self.last(x.reshape(len(x), -1))


@nnx.jit
def train_step(
    network: Network,
    optimizer: nnx.Optimizer,
    images: Integer[Array, "N 28 28 1"],
    labels: Integer[Array, "N"],
) -> Float[Array, ""]:
    """Updates the network and the optimiser's state in place, as NNX does; the mean loss."""

    def loss_of(network: Network) -> Float[Array, ""]:
        weights = network.class_weights[...]
        return margin_softmax_loss(network(images), weights, labels, margin=ArcFace(0.3), scale=16.0).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(network)
    optimizer.update(network, gradients)
    return loss


def train(steps: int = 300, batch_size: int = 128) -> Network:
    """A network trained on the seen digits, from seed 0."""
    mnist = load("mnist").train
    images, labels = mnist.images[mnist.labels < SEEN], mnist.labels[mnist.labels < SEEN]
    network = Network(SEEN, 32, nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.adamw(1e-3), wrt=nnx.Param)
    random = np.random.default_rng(0)
    for _ in range(steps):
        rows = random.integers(len(labels), size=batch_size)
        train_step(network, optimizer, jnp.asarray(images[rows]), jnp.asarray(labels[rows]))
    return network


def main() -> None:
    test = load("mnist").test
    unseen = test.labels >= SEEN
    network = train()
    print(retrieval(nnx.jit(network)(jnp.asarray(test.images[unseen])), test.labels[unseen]))


if __name__ == "__main__":
    main()
