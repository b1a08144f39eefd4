"""Sets that do not fit on the device stay on the host, and train to the same bits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, MarginHead, create_train_state, epochs, evaluate, parallel, sgd
from jaxnets.data import Dataset, Split
from jaxnets.data.mapped import map_images, pieces, rows
from jaxnets.epochs import EpochPlan, train_epoch_by_call
from jaxnets.models.conv_stack import Backbone, ConvStack

N = 40


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Forty images of noise in a file."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("mapped") / "images"
    rng.integers(0, 256, (N, 12, 12, 1), np.uint8).tofile(path)
    return Split(map_images(path, (N, 12, 12, 1)), rng.integers(0, 10, N).astype(np.int32))


@pytest.fixture(scope="module")
def state():
    net = ConvStack(Backbone(((8, 5, 2), "M")))
    head, images = MarginHead(10, ArcFace(0.3), 3.0), np.zeros((1, 12, 12, 1), np.uint8)
    return create_train_state(jax.random.key(0), net, head, images, sgd(0.05, 0.9), sgd(0.5))


def train(state, split, plan, *, stop_after=None, take=None):
    """What is left after an epoch, which may be stopped and resumed: the state's arrays and the sums."""
    state, totals, done = jax.tree.map(jnp.copy, state), None, 0
    if stop_after is not None:
        calls = train_epoch_by_call(state, split, plan, 3, take=take)
        *_, (state, totals, done) = itertools.islice(calls, stop_after)
    if done < plan.steps:
        *_, (state, totals, _) = train_epoch_by_call(state, split, plan, 3, done=done, totals=totals, take=take)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state, totals))]


@pytest.mark.parametrize(
    "plan",
    [EpochPlan.of(N, 16), *(pytest.param(EpochPlan.of(N, *size), marks=pytest.mark.slow) for size in ((16, 2), (64,)))],
    ids=str,
)
def test_a_mapped_set_trains_to_the_bits_of_one_on_the_device(state, mapped, plan):
    on_device = train(state, jax.device_put(mapped), plan)
    for again in (train(state, mapped, plan), train(state, mapped, plan, stop_after=1)):
        for host, device in zip(again, on_device, strict=True):
            np.testing.assert_array_equal(host, device)


def test_a_mapped_set_trains_on_several_devices(state, mapped):
    mesh = parallel.data_mesh(4)
    take, plan = parallel.sharded_take_steps(mesh), EpochPlan.of(N, 16, 2)
    everywhere = parallel.replicate(state, mesh)
    on_devices = train(everywhere, parallel.replicate(mapped, mesh), plan, take=take)
    for host, device in zip(train(everywhere, mapped, plan, take=take), on_devices, strict=True):
        np.testing.assert_array_equal(host, device)


def test_a_mapped_set_is_evaluated_alike(state, mapped):
    host, device = evaluate(state, mapped, 16), evaluate(state, jax.device_put(mapped), 16)
    np.testing.assert_array_equal(host.embeddings, device.embeddings)
    assert (host.loss, host.accuracy) == (device.loss, device.accuracy)


def test_large_pictures_are_evaluated_few_at_once(state, mapped, monkeypatch):
    """The memory is that of 2²⁰ pixels, and the results are those of a batch of that size."""
    shapes = ((28, 28, 1), (32, 32, 3), (224, 224, 3), (2000, 3000, 3), (0, 0, 1))
    assert [epochs.evaluation_batch(shape) for shape in shapes] == [1000, 1000, 20, 1, 1000]
    monkeypatch.setattr(epochs, "EVALUATED_PIXELS", 16 * 12 * 12 + 1)
    taken, step = [], epochs._eval_step
    monkeypatch.setattr(
        epochs, "_eval_step", lambda state, batch: taken.append(len(batch.labels)) or step(state, batch)
    )
    chosen = evaluate(state, mapped)
    assert taken == [16, 16, 16]
    given = evaluate(state, mapped, 16)
    np.testing.assert_array_equal(chosen.embeddings, given.embeddings)
    np.testing.assert_array_equal(chosen.predictions, given.predictions)
    assert chosen[2:] == given[2:]


def test_what_fits_goes_to_the_devices_and_what_does_not_stays(mapped, monkeypatch):
    dataset, mesh = Dataset(mapped, mapped, tuple("0123456789"), "noise"), parallel.data_mesh(2)
    assert dataset.nbytes == 2 * (N * 12 * 12 + 4 * N)
    for room, fits in ((dataset.nbytes, True), (dataset.nbytes - 1, False)):
        monkeypatch.setattr(parallel, "room_for_data", lambda mesh, room=room: room)
        placed = parallel.place(dataset, mesh)
        assert isinstance(placed.train.images, jax.Array) == isinstance(placed.test.labels, jax.Array) == fits
        assert placed is dataset or len(placed.train.images.devices()) == 2


def test_room_on_a_cpu_and_on_an_accelerator(unenforced):
    class Accelerator:
        platform = "gpu"

        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    class Two:
        devices = np.array([Accelerator(80 * 2**30), Accelerator(60 * 2**30)])

    assert parallel.room_for_data(parallel.data_mesh(1)) == 2**30
    assert parallel.room_for_data(Two) == 30 * 2**30


@pytest.mark.parametrize("start", [0, 3], ids=["whole", "slice"])
def test_rows_and_pieces_of_a_mapped_array_are_its_content(tmp_path, monkeypatch, start):
    monkeypatch.setattr("jaxnets.data.mapped._PIECE_BYTES", 100)
    array = np.random.default_rng(0).integers(0, 256, (23, 5, 7, 1), np.uint8)
    array.tofile(tmp_path / "array")
    mapped = map_images(tmp_path / "array", array.shape)[start:]
    np.testing.assert_array_equal(np.concatenate([*pieces(mapped)]), array[start:])
    assert [len(piece) for piece in pieces(mapped)][:2] == [2, 2]
    picked = rows(mapped, np.array([4, 0, 4]))
    np.testing.assert_array_equal(picked, array[start:][[4, 0, 4]])
    assert picked.flags.writeable
