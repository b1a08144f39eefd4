"""Steps with heads whose margins are drawn, or whose scale follows the training: on one device, and on two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import (
    AdaCos,
    ArcFace,
    ElasticArcFace,
    MarginHead,
    NormFace,
    Split,
    eval_step,
    margin_softmax_loss,
    train_step,
)
from jaxnets.parallel import data_mesh, replicate, sharded_step
from tests.jaxnets.formulas import quick
from tests.jaxnets.thin import copy, made_up, new_state, outputs_of, step

ELASTIC = MarginHead(10, ElasticArcFace(0.5, 0.2), 3.0)
ADACOS = MarginHead(10, NormFace(), AdaCos(10))


@quick
def losses_of(embeddings, weights, labels, margin, scale):
    return margin_softmax_loss(embeddings, weights, labels, margin=margin, scale=scale)


def batch():
    made = made_up(8)
    return Split(made.images, np.where(np.arange(8) == 2, -1, made.labels))


@pytest.fixture(scope="module", params=[ELASTIC, ADACOS], ids=["elastic", "adacos"])
def stepped(request):
    """A state, and after one step on one device: the state and its metrics."""
    state = new_state(margin_head=request.param)
    return state, step(copy(state), batch())


def test_two_devices_take_the_step_of_one(stepped):
    state, (one, told) = stepped
    mesh = data_mesh(2)
    two, told_by_two = sharded_step(train_step, mesh)(replicate(copy(state), mesh), batch())
    np.testing.assert_allclose(told_by_two["loss"], told["loss"], rtol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (two.params, one.params)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    for name, value in one.head_stats.items():
        np.testing.assert_allclose(two.head_stats[name], value, rtol=1e-5)


def test_a_step_draws_margins_by_the_states_key_and_evaluation_takes_their_mean():
    """The loss of the step, by the margins of its key; another step has others."""
    state, given = new_state(margin_head=ELASTIC), batch()
    outputs, _ = outputs_of(state, given.images, train=True)
    weights = state.params["head"]["class_weights"]
    for at in (0, 1):
        _, metrics = step(copy(state.replace(step=jnp.asarray(at, jnp.int32))), given)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.split(state.key)[1], at), 2)
        drawn = ELASTIC.margin.drawn(jax.random.fold_in(key, 1), 8)
        want = losses_of(outputs, weights, given.labels, drawn, 3.0).sum() / 7
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    evaluated = eval_step(state, given)
    want = losses_of(evaluated.embeddings, weights, given.labels, ArcFace(0.5), 3.0)
    np.testing.assert_allclose(evaluated.losses, want, rtol=1e-5)


def test_a_steps_loss_has_adacos_scale_of_its_batch():
    state, given = new_state(margin_head=ADACOS), batch()
    outputs, _ = outputs_of(state, given.images, train=True)
    weights = state.params["head"]["class_weights"]
    expected = quick(ADACOS.scale.update)(ADACOS.scale.init(), outputs, weights, given.labels)["scale"]
    after, metrics = step(copy(state), given)
    np.testing.assert_allclose(after.head_stats["scale"], expected, rtol=1e-5)
    assert abs(float(expected) / float(ADACOS.scale.init()["scale"]) - 1) > 0.01
    want = losses_of(outputs, weights, given.labels, NormFace(), expected).sum() / 7
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)


def test_a_share_of_a_batch_has_its_own_rows_margins():
    """On two devices, of four rows each; as the whole batch's eight."""
    key = jax.random.key(3)
    mesh = data_mesh(2)
    spec = jax.P(mesh.axis_names[0])
    of_shares = jax.shard_map(
        lambda rows: rows + ELASTIC.margin.drawn(key, len(rows), mesh.axis_names[0]).m,
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
    )
    np.testing.assert_array_equal(of_shares(jnp.zeros(8)), ELASTIC.margin.drawn(key, 8).m)
