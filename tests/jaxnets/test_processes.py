"""A mesh that spans two processes: the state is placed on all of it, trained, saved and restored."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnets import ArcFace, MarginHead, Split, create_train_state, sgd, train_step
from jaxnets.models.conv_stack import Backbone, ConvStack


def new_state():
    head, images = MarginHead(10, ArcFace(0.3), 3.0), np.zeros((1, 8, 8, 1), np.uint8)
    return create_train_state(
        jax.random.key(0), ConvStack(Backbone(((4, 3, 1), "M"))), head, images, sgd(0.1), sgd(0.5)
    )


def made_up(count):
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (count, 8, 8, 1), np.uint8), rng.integers(0, 10, count).astype(np.int32))


def one_of_two(address: str, process: int, folder: Path) -> None:
    """What each process runs; it has half of the devices and half of the batch, and all of the state."""
    from jaxnets import checkpoint
    from jaxnets.parallel import AXIS, data_mesh, replicate, sharded_step

    jax.distributed.initialize(address, 2, process)
    mesh = data_mesh()
    assert mesh.size == 4 and jax.local_device_count() == 2
    state, batch = replicate(new_state(), mesh), made_up(8)
    mine = jax.tree.map(lambda array: array[4 * process : 4 * process + 4], batch)
    rows = jax.NamedSharding(mesh, jax.P(AXIS))
    shared = jax.tree.map(lambda array: jax.make_array_from_process_local_data(rows, array), mine)
    after, metrics = sharded_step(train_step, mesh)(state, shared)
    weights = jax.device_put(after.params["head"]["class_weights"][:8], rows)  # two rows on each device
    checkpoint.save(folder, 1, {"weights": weights, "key": after.key, "step": after.step}, keep=1)
    _, tree = checkpoint.restore(folder, {"weights": 0 * weights, "key": state.key, "step": state.step})
    assert tree["weights"].sharding == rows and int(tree["step"]) == 1
    for got, wanted in zip(tree["weights"].addressable_shards, weights.addressable_shards, strict=True):
        np.testing.assert_array_equal(got.data, wanted.data)
    print("loss", float(metrics["loss"]), flush=True)


def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    folder = Path(__file__).parent
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); import pathlib, test_processes as test; "
    commands = [script + f"test.one_of_two({address!r}, {i}, pathlib.Path({str(tmp_path)!r}))" for i in (0, 1)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    ended = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    _, metrics = jax.jit(train_step)(new_state(), made_up(8))
    for out, _ in ended:
        assert float(out.split("loss")[1]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
