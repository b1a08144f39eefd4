"""A network thin enough for quick tests, with everything that the real ones have, and states of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import (
    ArcFace,
    MarginHead,
    Split,
    create_train_state,
    sgd,
    train_step,
)
from jaxnets.margins import AdaFace, CurricularFace
from jaxnets.models.conv_stack import Backbone, ConvStack

THIN = ConvStack(Backbone(((4, 3, 1), "M")))
HEAD = MarginHead(10, ArcFace(0.3), 3.0)
WITH_STATISTICS = [
    MarginHead(10, AdaFace(0.4, t_alpha=1.0), 3.0),
    MarginHead(10, CurricularFace(0.5), 3.0, num_subcenters=2),
]
step = jax.jit(train_step)


@functools.partial(jax.jit, static_argnames="train")
def outputs_of(state, images, train):
    """Of the network alone; with its new statistics in training."""
    variables = {"params": state.params["net"], "batch_stats": state.batch_stats}
    pixels = jnp.asarray(images, jnp.float32) / 255
    return THIN.apply(variables, pixels, train=train, mutable=["batch_stats"] if train else False)


def new_state_of(key, net=None, head=None, margin_head=HEAD):
    images = np.zeros((1, 8, 8, 1), np.uint8)
    optimizers = {"net_optimizer": net or sgd(0.05, 0.9), "head_optimizer": head or sgd(0.5)}
    return create_train_state(key, THIN, margin_head, images, **optimizers)


def new_state(seed=0, **how):
    state = new_state_of(jax.random.key(seed), **how)
    # Embeddings start away from the origin: a loss of directions has a gradient, and rounding errors, that go as 1/‖x‖.
    net = state.params["net"]
    net = {**net, "fc_0": {**net["fc_0"], "bias": net["fc_0"]["bias"] + jnp.array([8.0, 4.0])}}
    return state.replace(params={**state.params, "net": net})


def copy(state):
    """For functions that give their state up. (A new state would have a new optimiser, and compile everything anew.)"""
    return jax.tree.map(jnp.copy, state)


@functools.cache
def state_with(head):
    """One for all tests of a head, since its step is compiled anew for each new optimiser."""
    return new_state(margin_head=head)


def made_up(count, seed=1):
    """Of seed 0, rounding moves a maximum to another pixel of its window."""
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (count, 8, 8, 1), np.uint8), rng.integers(0, 10, count).astype(np.int32))


def part(split, indices):
    return Split(split.images[indices], split.labels[indices])
