"""Training with classes split over eight virtual devices, against one device, in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxnets import (
    AdaCos,
    AdaFace,
    ArcFace,
    CurricularFace,
    ElasticArcFace,
    MarginHead,
    ShardedMarginHead,
    Split,
    adam,
    checkpoint,
    create_train_state,
    eval_step,
    sgd,
    train_step,
)
from jaxnets.epochs import EpochPlan, train_epoch_by_call
from jaxnets.parallel import sharded_step, sharded_take_steps
from tests.jaxnets.split_states import (
    FIELDS,
    NET,
    C,
    D,
    N,
    Net,
    assert_equal,
    batch_of,
    head_of,
    in_float64,
    mesh_of,
    on_one_device,
    state_of,
    train,
)


@pytest.fixture(scope="module")
def trained():
    """Of two sub-centres a class, on two times four devices: the state at first and after two steps; and the same
    without padding on one.
    """
    with jax.enable_x64(True):
        first = in_float64(state_of(head_of(2, 4, num_subcenters=2)))
        return first, train(first, (N, N)), train(on_one_device(first), (N, N))


def test_steps_equal_those_of_one_device(trained):
    _, (sharded, told), (whole, told_by_one) = trained
    assert_equal(sharded, whole)
    for got, want in zip(told, told_by_one, strict=True):
        assert got["examples"] == want["examples"] == N - 1
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-12)


def test_a_batch_that_the_devices_do_not_divide_is_computed_whole_by_each(trained):
    first, _, _ = trained
    with jax.enable_x64(True):
        assert_equal(train(first, (N + 1,))[0], train(on_one_device(first), (N + 1,))[0])
        for count, rows in ((N, N // 8), (N + 1, N + 1)):
            inside = str(jax.make_jaxpr(eval_step)(first, batch_of(count)))
            assert f"f64[{rows},{D}]" in inside  # the embeddings on a device


def test_no_device_has_all_class_weights(trained):
    """Of sixteen rows each has four, of the optimiser's moments and of the averages too, before and after the steps."""
    first, (sharded, _), _ = trained
    for state in (first, sharded):
        found = 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if "class_weights" in jax.tree_util.keystr(path):
                assert leaf.shape == (16, 2, D) and leaf.sharding.spec == PartitionSpec("class")
                assert {shard.data.shape for shard in leaf.addressable_shards} == {(4, 2, D)}
                found += 1
        assert found == 4


def test_initial_class_weights_depend_on_the_class_alone():
    """On 2, 4 and 8 devices, of which some have padding; drawn for each class by a key of its own."""
    key = jax.random.key(3)
    want = [jax.random.normal(jax.random.fold_in(key, number), (D,)) for number in (0, 7, C - 1)]
    for shape in ((1, 2), (2, 2), (1, 8)):
        head = head_of(*shape)
        init = jax.jit(lambda key, head=head: head.init(key, D)).lower(key).compile()
        weights = np.asarray(init(key)["class_weights"])
        assert len(weights) == -(-C // shape[1]) * shape[1]
        np.testing.assert_array_equal(weights[[0, 7, C - 1]], want)
        np.testing.assert_array_equal(weights[C:], 0)
        assert not re.search(rf"\[{len(weights)},{D}\]", init.as_text())  # on no device, not even for a moment


def test_a_checkpoint_does_not_depend_on_the_devices(trained, tmp_path):
    """Saved by eight devices without padding, restored to two, which go on as one device would."""
    _, (sharded, _), (whole, _) = trained
    with jax.enable_x64(True):
        checkpoint.save(tmp_path, 2, sharded, keep=1, num_classes=C)
        _, saved = checkpoint.restore(tmp_path)
        assert saved["params"]["head"]["class_weights"].shape == (C, 2, D)
        like = in_float64(state_of(head_of(1, 2, num_subcenters=2), seed=1))
        _, restored = checkpoint.restore(tmp_path, like, num_classes=C)
        weights = restored.params["head"]["class_weights"]
        assert weights.shape == (14, 2, D) and weights.sharding == like.params["head"]["class_weights"].sharding
        assert_equal(restored, whole)
        np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(sharded.key))


def test_misuse_is_refused(trained):
    state, _, _ = trained
    with pytest.raises(ValueError, match=r"the mesh has the axes \('data', 'class'\), and none named 'classes'"):
        head_of(2, 4, axis="classes")
    with pytest.raises(ValueError, match=r"sample must be in \(0, 1\], not 0.0"):
        head_of(2, 4, sample=0.0)
    with pytest.raises(ValueError, match="AdaCos needs the classes whole: give a ShardedMarginHead a number"):
        ShardedMarginHead(C, ArcFace(), AdaCos(C), mesh=mesh_of(2, 4))
    with pytest.raises(ValueError, match=r"splits the batch itself: jit train_step without an axis_name"):
        train_step(state, batch_of(), "data")
    with pytest.raises(ValueError, match=r"only train_step and eval_step call a ShardedMarginHead"):
        state.head.predict(state.params["head"], jnp.zeros((1, D)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "count", "how"),
    [
        ((2, 4), N, {"margin": AdaFace(t_alpha=0.5)}),
        ((1, 8), N - 3, {"margin": CurricularFace(), "num_subcenters": 2}),
        ((2, 4), N, {"margin": ElasticArcFace(std=0.2)}),
        ((4, 2), N, {"margin": ElasticArcFace(std=0.2), "axis": ("class", "data")}),
        ((1, 8), N - 3, {"margin": ElasticArcFace(std=0.2)}),
        ((4, 2), N, {"margin": CurricularFace(), "axis": ("data", "class"), "min_norm": 3.0}),
    ],
    ids=str,
)
def test_margins_and_layouts(shape, count, how):
    """And a batch whose rows do not divide by the devices."""
    with jax.enable_x64(True):
        first = in_float64(state_of(head_of(*shape, **how)))
        (sharded, _), (whole, _) = train(first, (count, count)), train(on_one_device(first), (count, count))
        assert_equal(sharded, whole)


@pytest.mark.slow
def test_evaluation_equals_that_of_one_device(trained):
    _, (sharded, _), (whole, _) = trained
    with jax.enable_x64(True):
        for count in (N, N - 3):
            got, want = (jax.jit(eval_step)(state, batch_of(count)) for state in (sharded, whole))
            np.testing.assert_array_equal(got.predictions, want.predictions)
            for a, b in zip(got[:2], want[:2], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_whole_epochs_equal_those_of_one_device(trained):
    """By the functions that take other heads over a mesh too."""
    first, _, _ = trained
    split, plan = batch_of(), EpochPlan.of(N, N // 2)
    with jax.enable_x64(True):
        ends = []
        for state, take in ((first, sharded_take_steps(first.head.mesh)), (on_one_device(first), None)):
            calls = train_epoch_by_call(jax.tree.map(jnp.copy, state), jax.device_put(split), plan, 0, take=take)
            *_, (state, totals, done) = calls
            ends.append((state, np.asarray(totals.losses), int(totals.examples), done))
        assert_equal(ends[0][0], ends[1][0])
        np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-6)  # which are kept in float32
        assert ends[0][2:] == ends[1][2:] == (N - 1, 2)


@pytest.mark.parametrize("margin", [ArcFace(), CurricularFace()], ids=str)
def test_a_sample_is_a_step_of_the_drawn_classes_alone(margin):
    """With momenta, decay and clipping, as of a head of these classes on one device. The others rest."""
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.add_decayed_weights(0.1), adam(0.1))
    how = Net(), np.zeros((1, 2, 2, 1), np.uint8), NET, optimizer

    def state_with(head):
        return create_train_state(jax.random.key(0), how[0], head, *how[1:], averaging=0.9)

    def of_classes(state):
        leaves = jax.tree.leaves((state.params, state.opt_state))
        return [np.asarray(leaf) for leaf in leaves if leaf.shape[:1] == (200,)]

    with jax.enable_x64(True):
        state = in_float64(state_with(ShardedMarginHead(200, margin, 16.0, 2, mesh=mesh_of(2, 4), sample=0.1)))
        for seed in range(2):
            batch = batch_of(seed=seed)
            after, told = jax.jit(train_step)(state, batch)
            pairs = list(zip(of_classes(state), of_classes(after), strict=True))
            assert len(pairs) == 3
            is_drawn = np.any([(old != new).any(axis=(1, 2)) for old, new in pairs], axis=0)
            drawn, named = np.flatnonzero(is_drawn), batch.labels[batch.labels >= 0]
            assert set(named) < set(drawn) and 10 < len(drawn) < 60
            whole = state_with(MarginHead(len(drawn), margin, 16.0, 2))

            def cut(leaf, like, drawn=drawn):
                return jnp.asarray(leaf)[drawn] if leaf.shape[:1] == (200,) else jnp.asarray(np.asarray(leaf))

            alone = {n: jax.tree.map(cut, getattr(state, n), getattr(whole, n)) for n in FIELDS}
            numbers = np.where(batch.labels < 0, -1, np.searchsorted(drawn, batch.labels)).astype(np.int32)
            want, of_these = jax.jit(train_step)(
                whole.replace(**alone, step=jnp.int32(seed)), Split(batch.images, numbers)
            )
            got = {n: jax.tree.map(cut, getattr(after, n), getattr(want, n)) for n in FIELDS}
            assert_equal(after.replace(**got), want)
            for name in ("loss", "accuracy"):
                np.testing.assert_allclose(told[name], of_these[name], rtol=1e-12)
            state = after


def test_a_sample_does_not_add_up_gradients():
    head = ShardedMarginHead(200, ArcFace(), 16.0, mesh=mesh_of(1, 2), sample=0.1)
    with pytest.raises(ValueError, match=r"no sample with optax\.MultiSteps: it adds up gradients over steps"):
        several = optax.MultiSteps(sgd(0.1), 2).gradient_transformation()
        create_train_state(jax.random.key(0), Net(), head, np.zeros((1, 2, 2, 1)), NET, several)


@pytest.mark.slow
def test_a_sample_does_not_depend_on_the_devices(tmp_path):
    """From one checkpoint the next loss is the same on two, four and eight devices; and another one after it."""
    losses = []
    for shape in ((1, 2), (1, 4), (4, 2)):
        head = ShardedMarginHead(200, ArcFace(), 16.0, mesh=mesh_of(*shape), sample=0.1)
        state = state_of(head, seed=len(losses))
        if not losses:
            checkpoint.save(tmp_path, 0, state, keep=1, num_classes=200)
        _, state = checkpoint.restore(tmp_path, state, num_classes=200)
        losses.append([told["loss"] for told in train(state, (N, N))[1]])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-3)


@pytest.mark.slow
def test_a_mesh_of_explicit_axes_and_a_batch_split_over_it():
    mesh = jax.make_mesh((2, 4), ("data", "class"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    state, batch = state_of(ShardedMarginHead(C, ArcFace(), 16.0, mesh=mesh)), batch_of()
    _, want = jax.jit(train_step)(state, batch)
    after, got = jax.jit(train_step)(state, jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))))
    np.testing.assert_array_equal(got["loss"], want["loss"])
    weights = after.params["head"]["class_weights"]
    assert {shard.data.shape for shard in weights.addressable_shards} == {(4, D)}, "the new state is split as the old"


@pytest.mark.slow
def test_a_step_over_explicit_axes_takes_a_batch_of_the_host():
    """By `sharded_step`, of a head that is whole."""
    state, batch = state_of(MarginHead(C, ArcFace(), 16.0)), batch_of()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    _, got = sharded_step(train_step, mesh)(state, batch)
    _, want = jax.jit(train_step)(state, batch)
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
