"""States with classes split over devices, and the same on one device, for tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jaxnets import (
    ArcFace,
    MarginHead,
    ShardedMarginHead,
    Split,
    adam,
    create_train_state,
    sgd,
    train_step,
)
from jaxnets.models.layers import BatchNorm

C, D, N = 13, 6, 16  # of 4 devices the last one has padding, and so have two of 8
NET, HEAD = sgd(0.1, 0.9), optax.chain(optax.clip_by_global_norm(0.05), adam(0.1))
FIELDS = "params", "batch_stats", "head_stats", "opt_state", "averages"


class Net(nn.Module):
    """A product and BatchNorm, whose statistics are of the whole batch."""

    @nn.compact
    def __call__(self, images, *, train=False, axis_name=None):
        x = nn.Dense(D)(images.reshape(len(images), -1))
        return BatchNorm(train, axis_name)(x[:, None, None])[:, 0, 0]


def mesh_of(*shape):
    return Mesh(np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape), ("data", "class"))


def head_of(*shape, margin=None, **how):
    return ShardedMarginHead(C, margin or ArcFace(), 16.0, mesh=mesh_of(*shape), **how)


def batch_of(count=N, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, count).astype(np.int32)
    labels[:2] = -1, C - 1
    return Split(rng.integers(0, 256, (count, 2, 2, 1), np.uint8), labels)


def state_of(head, seed=0):
    images = np.zeros((1, 2, 2, 1), np.uint8)
    return create_train_state(jax.random.key(seed), Net(), head, images, NET, HEAD, averaging=0.9)


def in_float64(state):
    def wide(leaf):
        return jax.device_put(np.asarray(leaf, np.float64), leaf.sharding) if leaf.dtype == np.float32 else leaf

    return jax.tree.map(wide, state)


def on_one_device(state):
    """The same state with `MarginHead`: class weights and the optimiser's arrays of them without padding."""
    head = state.head
    whole = state_of(MarginHead(C, head.margin, head.scale, head.num_subcenters, min_norm=head.min_norm))

    def moved(leaf, like):
        return jnp.asarray(np.asarray(leaf)[: len(like)] if like.ndim else np.asarray(leaf))

    return whole.replace(**{name: jax.tree.map(moved, getattr(state, name), getattr(whole, name)) for name in FIELDS})


def assert_equal(sharded, whole):
    """Within the rounding of a few hundred additions in float64; of both states, and of what they say of a batch."""
    pairs = [(getattr(sharded, name), getattr(whole, name)) for name in FIELDS]
    for got, want in zip(*map(jax.tree.leaves, zip(*pairs, strict=True)), strict=True):
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            np.testing.assert_array_equal(got[len(want) :], 0)  # padding is inert
            got = got[: len(want)]
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


def train(state, counts):
    """Steps, each on a batch of so many rows; the program of the first, and the metrics of all."""
    step, told = jax.jit(train_step), []
    for seed, count in enumerate(counts):
        state, metrics = step(state, batch_of(count, seed))
        told.append({name: np.asarray(value) for name, value in metrics.items()})
    return state, told
