"""The running average of the weights: its equation, and that evaluation takes it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, MarginHead, Split, create_train_state, evaluate, sgd, train_step
from jaxnets.models.conv_stack import Backbone, ConvStack
from jaxnets.parallel import data_mesh, replicate, sharded_step

step = jax.jit(train_step)


def new_state(averaging):
    return create_train_state(
        jax.random.key(0),
        ConvStack(Backbone(((4, 3, 1), "M"))),
        MarginHead(10, ArcFace(0.3), 3.0),
        np.zeros((1, 8, 8, 1), np.uint8),
        net_optimizer=sgd(0.05, 0.9),
        head_optimizer=sgd(0.5),
        averaging=averaging,
    )


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield Split(rng.integers(0, 256, (8, 8, 8, 1), np.uint8), rng.integers(0, 10, 8).astype(np.int32))


@pytest.mark.parametrize("averaging", [0.15, 0.9])
def test_the_average_is_its_equation_and_changes_nothing_else(averaging):
    plain, state = new_state(None), new_state(averaging)
    expected = jax.tree.map(np.asarray, {"params": plain.params, "batch_stats": plain.batch_stats})
    for t, batch in enumerate(batches(4)):
        (plain, _), (state, _) = step(plain, batch), step(state, batch)
        keeps = min(averaging, (1 + t) / (10 + t))  # 0.1, 0.18, 0.25, 0.31
        new = {"params": plain.params, "batch_stats": plain.batch_stats}
        expected = jax.tree.map(lambda a, n, keeps=keeps: keeps * a + (1 - keeps) * np.asarray(n), expected, new)
    assert plain.averages == {}
    chex.assert_trees_all_close(state.params, plain.params, rtol=1e-6)
    chex.assert_trees_all_close(state.averages, expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(state.averages["params"]["head"]["class_weights"], plain.params["head"]["class_weights"])


def test_the_average_is_what_is_evaluated():
    state = new_state(0.9)
    for batch in batches(4):
        state, _ = step(state, batch)
    by_hand = new_state(None).replace(
        params=state.averages["params"], batch_stats=state.averages["batch_stats"], step=state.step
    )
    found, expected = evaluate(state, batch), evaluate(by_hand, batch)
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)
    assert found.loss == expected.loss
    raw = evaluate(new_state(None).replace(params=state.params, batch_stats=state.batch_stats), batch)
    assert np.abs(found.embeddings - raw.embeddings).max() > 1e-3


def test_devices_hold_the_same_average():
    mesh = data_mesh(2)
    whole, shared = new_state(0.9), replicate(new_state(0.9), mesh)
    take = sharded_step(train_step, mesh)
    for batch in batches(2):
        whole, _ = step(whole, batch)
        shared, _ = take(shared, batch)
    chex.assert_trees_all_close(jax.device_get(shared.averages), jax.device_get(whole.averages), rtol=1e-4, atol=1e-5)


def test_the_state_can_be_given_up_to_a_step():
    donated = jax.jit(train_step, donate_argnums=0)(new_state(0.5), next(batches(1)))[0]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(donated.averages))


@pytest.mark.parametrize("averaging", [1.0, -0.1])
def test_a_share_that_is_none_is_refused(averaging):
    with pytest.raises(ValueError, match=r"averaging, .* must be in \[0, 1\), not"):
        new_state(averaging)
