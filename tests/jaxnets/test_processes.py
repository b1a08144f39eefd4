"""A mesh that spans two processes: states are placed or split over all of it, trained, saved and restored."""

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnets import (
    ArcFace,
    MarginHead,
    ShardedMarginHead,
    Split,
    checkpoint,
    create_train_state,
    evaluate,
    sgd,
    train_step,
)
from jaxnets.models.conv_stack import Backbone, ConvStack

CLASSES = 13  # which neither two nor eight shares hold without padding


def new_state(head=None, outputs=2):
    images, net = np.zeros((1, 8, 8, 1), np.uint8), ConvStack(Backbone(((4, 3, 1), "M")), outputs)
    head = head or MarginHead(10, ArcFace(0.3), 3.0)
    return create_train_state(jax.random.key(0), net, head, images, sgd(0.1, 0.9), sgd(0.5, 0.9))


def new_split_state(axes):
    return new_state(ShardedMarginHead(CLASSES, ArcFace(0.3), 3.0, mesh=jax.make_mesh(*axes)), outputs=8)


def made_up(count, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (count, 8, 8, 1), np.uint8), rng.integers(0, 10, count).astype(np.int32))


def placed(folder):
    """A step with a state that is placed on all devices, and half of the batch on those of each process."""
    from jaxnets.parallel import AXIS, data_mesh, replicate, sharded_step

    mesh = data_mesh()
    assert mesh.size == 4 and jax.local_device_count() == 2
    rows = jax.NamedSharding(mesh, jax.P(AXIS))
    state, batch = replicate(new_state(), mesh), shared_by_processes(made_up(8), rows)
    after, metrics = sharded_step(train_step, mesh)(state, batch)
    weights = jax.device_put(after.params["head"]["class_weights"][:8], rows)  # two rows on each device
    columns = jax.device_put(after.params["head"]["class_weights"][:8].T, jax.NamedSharding(mesh, jax.P(None, AXIS)))
    kept = {"weights": weights, "columns": columns, "key": after.key, "step": after.step}
    checkpoint.save(folder, 1, kept, keep=1)
    _, tree = checkpoint.restore(folder, kept | {"weights": 0 * weights, "columns": 0 * columns})
    assert tree["weights"].sharding == rows and int(tree["step"]) == 1
    for name in ("weights", "columns"):
        for got, wanted in zip(tree[name].addressable_shards, kept[name].addressable_shards, strict=True):
            np.testing.assert_array_equal(got.data, wanted.data)
    return float(metrics["loss"])


def shared_by_processes(batch, rows):
    """A batch of which each process gives its own half."""
    half = len(batch.labels) // 2
    mine = slice(half * jax.process_index(), half * (jax.process_index() + 1))
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(rows, array[mine]), batch)


def split(folder):
    """Goes on from checkpoint 1 by a step, and saves checkpoint 2; each process has half of the classes."""
    like, made, empty = new_split_state(((2, 2), ("class", "data"))), [], np.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checkpoint.np, "empty", lambda shape, *rest, **more: made.append(shape) or empty(shape, *rest, **more)
        )
        _, state = checkpoint.restore(folder, like, num_classes=CLASSES)
    assert made and all(tuple(np.atleast_1d(shape))[:1] != (CLASSES,) for shape in made), "no host holds all classes"
    weights = state.params["head"]["class_weights"]
    if jax.process_index() == 1:
        assert not np.any(weights.addressable_shards[-1].data[-1]), "padding is 0"
    assert weights.shape == (14, 8)
    mine = 7 * jax.process_index()
    assert [shard.index[0] for shard in weights.addressable_shards] == [slice(mine, mine + 7)] * 2
    rows = jax.NamedSharding(like.head.mesh, jax.P(like.head.mesh.axis_names))
    after, metrics = jax.jit(train_step)(state, shared_by_processes(made_up(8, 1), rows))
    test = made_up(8, 3)  # rows that divide by the devices are split over them in inference too
    evaluated = evaluate(after, test)
    assert evaluated.embeddings.shape == (8, 8) and evaluated.predictions.shape == (8,)
    np.save(folder / f"evaluated{jax.process_index()}.npy", [evaluated.loss, evaluated.accuracy])
    held = checkpoint.held(after, CLASSES)
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(checkpoint.save, folder, 2, held, keep=2, num_classes=CLASSES)
        step = jax.jit(train_step, donate_argnums=0)
        for _ in range(20):  # meanwhile, in the same buffers, and talking to the other process
            after, _ = step(after, shared_by_processes(made_up(8, 1), rows))
        writing.result()
    return float(metrics["loss"])


def alone(folder):
    """One process saves, and the other does not: it is told."""
    if jax.process_index() == 0:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "_WAIT", 2)
            with pytest.raises(
                OSError, match=r"save is for all 2 processes to call, with the same arguments: after 2 s"
            ):
                checkpoint.save(folder, 1, {"a": np.zeros(3)}, keep=1)
    return 1.0


def one_of_two(address: str, process: int, name: str, folder: str) -> None:
    """What each process runs; it has half of the devices."""
    jax.distributed.initialize(address, 2, process)
    print("loss", globals()[name](Path(folder)), flush=True)


def losses_of_two(name, folder):
    """Of one of the functions above, by each of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_processes as test; "
    commands = [script + f"test.one_of_two({address!r}, {i}, {name!r}, {str(folder)!r})" for i in (0, 1)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    ended = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    return [float(out.split("loss")[1]) for out, _ in ended]


def test_a_process_that_saves_alone_is_told(tmp_path):
    assert losses_of_two("alone", tmp_path) == [1.0, 1.0]
    assert checkpoint.restore(tmp_path) is None


def test_two_processes_train_as_one(tmp_path):
    losses = losses_of_two("placed", tmp_path)
    _, metrics = jax.jit(train_step)(new_state(), made_up(8))
    assert losses == pytest.approx([float(metrics["loss"])] * 2, rel=1e-5)


@pytest.mark.slow
def test_classes_split_over_two_processes_train_as_in_one(tmp_path):
    """From one process to two and back; all of it against `MarginHead` on one device, from the first checkpoint on."""
    split = new_split_state(((8,), ("class",)))
    whole = new_state(MarginHead(CLASSES, ArcFace(0.3), 3.0), outputs=8)
    after, _ = jax.jit(train_step)(split, made_up(8, 0))
    checkpoint.save(tmp_path, 1, after, keep=2, num_classes=CLASSES)
    losses = losses_of_two("split", tmp_path)
    digests = json.loads((tmp_path / "2" / "digests.json").read_text())
    assert {name for name, digest in digests["arrays"].items() if digest is None} == {
        name for name in digests["arrays"] if name.endswith("class_weights")
    }
    _, saved = checkpoint.restore(tmp_path)
    assert saved["params"]["head"]["class_weights"].shape == (CLASSES, 8)
    number, split = checkpoint.restore(tmp_path, split, num_classes=CLASSES)
    _, by_two = checkpoint.restore(tmp_path, whole)
    shutil.rmtree(tmp_path / "2")
    _, whole = checkpoint.restore(tmp_path, whole)
    assert number == 2 and int(whole.step) == 1
    whole, metrics = jax.jit(train_step)(whole, made_up(8, 1))
    assert losses == pytest.approx([float(metrics["loss"])] * 2, rel=1e-5)
    np.testing.assert_array_equal(*(jax.random.key_data(state.key) for state in (by_two, whole)))
    for got, wanted in zip(jax.tree.leaves(by_two.replace(key=0)), jax.tree.leaves(whole.replace(key=0)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    evaluated = evaluate(split, made_up(8, 3))
    for process in (0, 1):
        told = np.load(tmp_path / f"evaluated{process}.npy")
        np.testing.assert_allclose(told, [evaluated.loss, evaluated.accuracy], rtol=1e-5)
    (_, by_split), (_, by_whole) = (jax.jit(train_step)(state, made_up(8, 2)) for state in (split, whole))
    assert float(by_split["loss"]) == pytest.approx(float(by_whole["loss"]), rel=1e-5)
