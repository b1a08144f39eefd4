"""The step, on a network thin enough for quick tests and with everything the real ones have."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from jaxnets import (
    ArcFace,
    MarginHead,
    Split,
    adam,
    eval_step,
    evaluate,
    margin_softmax_loss,
    train_step,
)
from jaxnets.augment import augment
from jaxnets.margins import CurricularFace
from jaxnets.parallel import data_mesh, replicate, sharded_step
from jaxnets.train import is_finite
from tests.jaxnets.thin import (
    HEAD,
    THIN,
    WITH_STATISTICS,
    made_up,
    new_state,
    new_state_of,
    outputs_of,
    state_with,
    step,
)


@pytest.fixture(scope="module")
def state():
    return new_state()


def test_a_fresh_state_is_determined_by_its_key(state):
    chex.assert_trees_all_equal(jax.tree.leaves(new_state().params), jax.tree.leaves(state.params))
    chex.assert_shape(state.params["head"]["class_weights"], (10, 2))
    assert (
        float(jnp.abs(new_state(1).params["head"]["class_weights"] - state.params["head"]["class_weights"]).max()) > 0.1
    )


@pytest.mark.parametrize(("num_subcenters", "shape"), [(1, (2000, 8)), (3, (2000, 3, 8))])
def test_class_weights_start_standard_normal(num_subcenters, shape):
    head = MarginHead(2000, ArcFace(0.3), 3.0, num_subcenters)
    weights = head.init(jax.random.key(0), 8)["class_weights"]
    chex.assert_shape(weights, shape)
    assert abs(float(weights.mean())) < 0.03 and float(weights.std()) == pytest.approx(1, abs=0.03)


def test_each_group_follows_its_own_optimiser(state):
    """The first step of SGD moves each parameter by −rate·gradient: recovered rates are 0.05 and 0.5."""
    batch = made_up(16)

    def mean_loss(params):
        variables = {"params": params["net"], "batch_stats": state.batch_stats}
        pixels = jnp.asarray(batch.images, jnp.float32) / 255
        outputs, _ = THIN.apply(variables, pixels, train=True, mutable=["batch_stats"])
        return HEAD.loss({}, params["head"], outputs, batch.labels).mean()

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    after, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for group, rate in (("net", 0.05), ("head", 0.5)):
        moved = jax.tree.map(lambda new, old: new - old, after.params[group], state.params[group])
        expected = jax.tree.map(lambda gradient, rate=rate: -rate * gradient, gradients[group])
        chex.assert_trees_all_close(moved, expected, rtol=1e-3, atol=1e-6)
    assert int(after.step) == 1


def test_the_loss_falls_on_one_batch(state):
    batch, losses = made_up(16), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]


def test_seeds_train_side_by_side_under_vmap():
    """Each with parameters, and statistics of the head, of its own."""
    batch = made_up(16)
    states = [new_state(seed, margin_head=WITH_STATISTICS[0]) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)  # equal recipes can be stacked
    mapped, _ = jax.jit(jax.vmap(train_step, in_axes=(0, None)))(stacked, batch)
    for i, one in enumerate(states):
        after, _ = step(one, batch)
        got = jax.tree.map(lambda leaf, i=i: leaf[i], (mapped.params, mapped.head_stats))
        chex.assert_trees_all_close(got, (after.params, after.head_stats), rtol=1e-4, atol=1e-5)
        assert all(after.head_stats[name] != value for name, value in one.head_stats.items())


WAYS = ["pmap", "shard_map", "shard_map without check_vma", "sharded_step"]


@pytest.mark.parametrize(
    ("head", "how"),
    [(WITH_STATISTICS[0], how) for how in WAYS] + [(WITH_STATISTICS[1], "sharded_step"), (HEAD, "sharded_step")],
    ids=lambda value: value if isinstance(value, str) else type(value.margin).__name__,
)
def test_eight_devices_equal_one_on_the_whole_batch(head, how):
    """BatchNorm's and the head's statistics, gradients and metrics are of all 16 images, of which the rows of label −1
    do not count, and lie on some devices more than on others; differences are of rounding alone.
    """
    state, batch, mesh = state_with(head), made_up(16), data_mesh(8)
    batch.labels[[0, 1, 2, 9, 14]] = -1
    whole, metrics = step(state, batch)
    assert metrics["examples"] == 11
    if how == "pmap":
        shares = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), batch)
        mapped = jax.pmap(train_step, axis_name="i", in_axes=(None, 0, None), static_broadcasted_argnums=2)
        after, split_metrics = jax.tree.map(lambda leaf: leaf[5], mapped(state, shares, "i"))
    elif how == "sharded_step":
        after, split_metrics = sharded_step(train_step, mesh)(state, batch)
    else:
        specs = {"in_specs": (jax.P(), jax.P("data")), "out_specs": jax.P()}
        mapped = jax.shard_map(
            lambda state, batch: train_step(state, batch, "data"), mesh=mesh, check_vma="without" not in how, **specs
        )
        after, split_metrics = jax.jit(mapped)(state, batch)
    got = (after.params, after.batch_stats, after.head_stats, split_metrics)
    want = (whole.params, whole.batch_stats, whole.head_stats, metrics)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-4, atol=2e-6)
    assert int(after.step) == 1 and all(whole.head_stats[name] != value for name, value in state.head_stats.items())


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_batch_split_over_a_mesh_of_any_kind(axis_type):
    """As `jax.make_mesh` makes it, Explicit by default; class weights split over it too stay so."""
    head = MarginHead(10, CurricularFace(0.5), 3.0, min_norm=1.0)
    state, batch = state_with(head).replace(augment=augment), made_up(16)
    whole, metrics = step(state, batch)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    rows = NamedSharding(mesh, jax.P("data"))
    shared, split = replicate(state, mesh), jax.device_put(batch, rows)
    shared = shared.replace(params={**shared.params, "head": jax.device_put(shared.params["head"], rows)})
    after, split_metrics = step(shared, split)
    assert after.params["head"]["class_weights"].sharding.is_equivalent_to(rows, 2)
    got, want = (after.params, after.head_stats, split_metrics), (whole.params, whole.head_stats, metrics)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-4, atol=2e-6)
    again, _ = step(after, split)
    assert again.step == 2
    losses = jax.jit(eval_step)(shared, split).losses
    np.testing.assert_allclose(losses, jax.jit(eval_step)(state, batch).losses, rtol=1e-4)
    assert losses.sharding.spec[0] == "data"


def test_frozen_statistics_normalise_and_stay(state):
    """A step then sees the network as it is in inference, and learns no statistics of the batch."""
    batch = made_up(16)
    warm = step(state, batch)[0]
    frozen = warm.replace(freeze_batch_stats=True)
    after, metrics = step(frozen, batch)
    chex.assert_trees_all_equal(after.batch_stats, warm.batch_stats)
    assert float(metrics["loss"]) == pytest.approx(evaluate(warm, batch).loss, rel=1e-5)
    assert not np.allclose(after.params["head"]["class_weights"], warm.params["head"]["class_weights"])
    assert not np.allclose(
        step(warm, batch)[0].batch_stats["hidden_layer_0"]["mean"], warm.batch_stats["hidden_layer_0"]["mean"]
    )


def test_means_are_over_the_rows_that_count(state):
    """Of label −1 a row counts in no mean, of a step or an evaluation; with none that counts there is no loss."""
    data = made_up(20)
    marked = Split(data.images, np.where(np.arange(20) % 3 == 0, -1, data.labels).astype(np.int32))
    counted = np.arange(20) % 3 != 0
    every, some = evaluate(state, data), evaluate(state, marked, batch_size=8)
    losses = np.asarray(jax.jit(eval_step)(state, data).losses)
    assert some.loss == pytest.approx(losses[counted].mean(), rel=1e-5)
    assert some.accuracy == np.mean(every.predictions[counted] == data.labels[counted])
    _, metrics = step(state, marked)
    outputs, _ = outputs_of(state, data.images, train=True)
    of_step = jax.jit(HEAD.loss)({}, state.params["head"], outputs, data.labels)
    assert float(metrics["loss"]) == pytest.approx(float(of_step[counted].mean()), rel=1e-5)
    none = Split(data.images, np.full(20, -1, np.int32))
    after, metrics = step(state, none)
    assert metrics == {"loss": 0, "accuracy": 0, "examples": 0}
    chex.assert_trees_all_equal(after.params, state.params)
    assert np.isnan(evaluate(state, none).loss) and np.isnan(evaluate(state, none).accuracy)


def test_images_are_augmented_alike_on_eight_devices_and_otherwise_in_each_step(state):
    state, batch = state.replace(augment=augment), made_up(16)
    whole, metrics = step(state, batch)
    after, split_metrics = sharded_step(train_step, data_mesh(8))(state, batch)
    chex.assert_trees_all_close(jax.device_get(split_metrics), jax.device_get(metrics), rtol=1e-4)
    chex.assert_trees_all_close(jax.device_get(after.params), jax.device_get(whole.params), rtol=1e-4, atol=2e-6)
    _, plain = step(state.replace(augment=None), batch)
    _, later = step(state.replace(step=state.step + 1), batch)
    assert len({float(each["loss"]) for each in (metrics, plain, later)}) == 3


@pytest.mark.parametrize("head", WITH_STATISTICS, ids=lambda head: type(head.margin).__name__)
def test_a_heads_statistics_move_in_training_and_rest_in_evaluation(head):
    """A step updates them with its batch, and its loss is taken with the new ones; `evaluate` reads these."""
    state, batch = state_with(head), made_up(16)
    after, metrics = step(state, batch)
    (embeddings, _), class_weights = outputs_of(state, batch.images, train=True), state.params["head"]["class_weights"]
    wanted = jax.jit(head.margin.update)(head.margin.init(), embeddings, class_weights, batch.labels)
    chex.assert_trees_all_close(after.head_stats, wanted, rtol=1e-5, atol=1e-6)

    losses_of = jax.jit(head.loss)

    def mean_loss(stats):
        return float(losses_of(stats, state.params["head"], embeddings, batch.labels).mean())

    assert float(metrics["loss"]) == pytest.approx(mean_loss(wanted), rel=1e-5)
    assert mean_loss(state.head_stats) != pytest.approx(mean_loss(wanted), rel=1e-4)  # stale ones would show

    embeddings, class_weights = outputs_of(after, batch.images, train=False), after.params["head"]["class_weights"]

    @jax.jit
    def defined(embeddings, class_weights):
        now = head.margin.at(after.head_stats, embeddings)
        return margin_softmax_loss(embeddings, class_weights, batch.labels, margin=now, scale=head.scale).mean()

    assert evaluate(after, batch).loss == pytest.approx(float(defined(embeddings, class_weights)), rel=1e-5)


@pytest.mark.parametrize("group", ["params", "batch_stats", "head_stats"])
def test_numbers_that_are_not_finite_are_seen_wherever_they_are(group):
    state = state_with(WITH_STATISTICS[0])
    assert is_finite(state)
    leaves, structure = jax.tree.flatten(getattr(state, group))
    for bad in (jnp.nan, jnp.inf):
        spoilt = [*leaves[:-1], leaves[-1].at[...].set(bad)]
        assert not is_finite(state.replace(**{group: jax.tree.unflatten(structure, spoilt)}))


def test_a_batch_that_does_not_divide_is_refused(state):
    with pytest.raises(ValueError, match="a batch of 12 does not divide by 8 devices"):
        sharded_step(train_step, data_mesh(8))(state, made_up(12))


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match=r"99 devices were asked for, and this machine has 8 \(cpu\); XLA_FLAGS"):
        data_mesh(99)


def test_a_state_can_be_made_within_other_programs():
    """Of shapes alone, compiled, and mapped over keys: the numbers are those of a state made by itself."""

    def make(key):
        return new_state_of(key)

    want = make(jax.random.key(3))
    shapes = jax.eval_shape(make, jax.random.key(3))
    assert jax.tree.map(jnp.shape, shapes.params) == jax.tree.map(jnp.shape, want.params)
    chex.assert_trees_all_close(jax.jit(make)(jax.random.key(3)).params, want.params, rtol=1e-5)
    several = jax.jit(jax.vmap(make))(jnp.stack([jax.random.key(2), jax.random.key(3)]))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], several.params), want.params, rtol=1e-5)
    assert jax.tree.structure(shapes) == jax.tree.structure(want)  # one recipe, one step


@pytest.mark.parametrize("run", [train_step, eval_step])
def test_a_million_classes_take_no_matrix_of_logits(run):
    """512 rows × 10⁶ classes would be 1.9 GiB; the step needs its gradient of the class weights, 8 MB, and chunks."""
    images = jax.ShapeDtypeStruct((512, 8, 8, 1), jnp.uint8)
    head = MarginHead(1_000_000, ArcFace(0.3), 30.0)
    shapes = jax.eval_shape(lambda: new_state_of(jax.random.key(0), margin_head=head))
    batch = Split(images, jax.ShapeDtypeStruct((512,), jnp.int32))
    memory = jax.jit(run).lower(shapes, batch).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 200 * 2**20


def test_no_number_that_a_healthy_step_makes_is_nan():
    with jax.debug_nans(True):
        for head in WITH_STATISTICS:
            _, metrics = step(state_with(head), made_up(16))
            assert np.isfinite(metrics["loss"])


def test_adam_drives_both_groups_too():
    after, _ = step(new_state(net=adam(), head=adam()), made_up(16))
    assert is_finite(after)
