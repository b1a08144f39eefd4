"""The examples do what they say."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.examples.optimizers import accumulated, by_layer, frozen
from jaxnets import Split, load, sgd
from jaxnets.recognition import retrieval
from tests.jaxnets.thin import new_state_of, step

# optax's own Adam and MultiSteps promote dtypes.
promoting = pytest.mark.usefixtures("_promoting")


@pytest.fixture
def _promoting():
    with jax.numpy_dtype_promotion("standard"):
        yield


BATCHES = [
    Split(
        np.random.default_rng(seed).integers(0, 256, (8, 8, 8, 1), np.uint8),
        np.random.default_rng(seed).integers(0, 10, 8).astype(np.int32),
    )
    for seed in (0, 1)
]


@promoting
@pytest.mark.parametrize("name", ["flax_nnx", pytest.param("equinox_module", id="equinox")])
def test_a_network_retrieves_digits_that_it_never_saw(name):
    """P@1 of chance is a third; measured after 30 steps: 89 and 87 %."""
    jit = nnx.jit if name == "flax_nnx" else pytest.importorskip("equinox").filter_jit
    example = importlib.import_module(f"experiments.examples.{name}")
    test = load("mnist").test
    unseen = np.flatnonzero(test.labels >= example.SEEN)[:300]
    network = example.train(steps=30, batch_size=64)
    embeddings = jit(network)(jnp.asarray(test.images[unseen]))
    assert retrieval(embeddings, test.labels[unseen], bootstrap=None).precision_at_1 > 0.7


@promoting
def test_accumulated_steps_are_one_of_the_mean_gradient():
    """SGD: the second step moves the weights by the rate times the mean of both gradients, the first not at all."""
    start = new_state_of(jax.random.key(0), net=sgd(0.1), head=sgd(0.1))
    state = new_state_of(jax.random.key(0), net=accumulated(sgd(0.1), 2), head=accumulated(sgd(0.1), 2))
    moved = []
    for batch in BATCHES:
        alone, _ = step(start, batch)
        moved.append(jax.tree.map(jnp.subtract, alone.params, start.params))
        before, (state, _) = state, step(state, batch)
        if not moved[1:]:
            jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
    for got, began, first, second in zip(*map(jax.tree.leaves, (state.params, start.params, *moved)), strict=True):
        np.testing.assert_allclose(got, began + (first + second) / 2, rtol=1e-5, atol=1e-7)


def test_a_frozen_network_trains_its_head_alone():
    start = new_state_of(jax.random.key(0), net=frozen()).replace(freeze_batch_stats=True)
    after, _ = step(start, BATCHES[0])
    for name in ("params", "batch_stats"):
        before, now = getattr(start, name), getattr(after, name)
        jax.tree.map(np.testing.assert_array_equal, *((of["net"] if name == "params" else of) for of in (before, now)))
    assert np.abs(after.params["head"]["class_weights"] - start.params["head"]["class_weights"]).max() > 1e-4


def test_each_layer_has_its_rate():
    """A tenth of the rate moves a layer a tenth as far."""
    plain = new_state_of(jax.random.key(0), net=sgd(0.1))
    slower = new_state_of(jax.random.key(0), net=by_layer(sgd(0.1), {"hidden_layer_0": sgd(0.01)}))
    after, after_slower = (step(state, BATCHES[0])[0].params["net"] for state in (plain, slower))
    for layer, share in {name: 0.1 if name == "hidden_layer_0" else 1.0 for name in after}.items():
        moved, expected = (
            jax.tree.map(jnp.subtract, of[layer], plain.params["net"][layer]) for of in (after_slower, after)
        )
        for got, want in zip(*map(jax.tree.leaves, (moved, expected)), strict=True):
            np.testing.assert_allclose(got, share * want, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match=r"the network has no layer 'stem'; there is .*hidden_layer_0"):
        new_state_of(jax.random.key(0), net=by_layer(sgd(0.1), {"stem": sgd(0.1)}))
