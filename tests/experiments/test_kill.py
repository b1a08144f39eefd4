"""Runs that are really killed, and told to stop, end with the bits of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
FILES = {"arcloss": 4 + 2 * 4 + 4, "mynn": 4 + 4 + 1}  # of a run of four epochs, apart from those that hold times


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eighty pictures of two classes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for i in range(40):
            Image.fromarray(rng.integers(level - 30, level + 30, (16, 16, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def start(digits, pictures):
    """Starts a study's run of four epochs of forty steps below a folder, on virtual devices."""

    def process(study, out, devices):
        module, *more = study.split()
        arguments = {
            "arcloss": {"variant": "v0", "batch-size": 4, "data": f"idx:{digits}"},
            "mynn": {"size": 16, "batch-size": 2, "steps-per-epoch": 40, "data": f"folder:{pictures}"},
        }[module]
        arguments |= {"epochs": 4, "out": out, "devices": devices}
        words = [str(word) for name, value in arguments.items() for word in (f"--{name}", value)]
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        return subprocess.Popen(
            [sys.executable, "-m", f"experiments.{module}", *more, *words],
            cwd=REPOSITORY,
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return process


def finish(process):
    """Waits for a process that is to end well."""
    with process:
        output, error = process.communicate()
    assert process.returncode == 0, error
    return output


def hit(process, number, epochs, seconds):
    """Sends a signal so many seconds after so many epochs ended here, and makes sure that it met the process at work.

    Before the first of them, the process is met while it starts.
    """
    with process:
        while epochs:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            epochs -= line.startswith("epoch")
        time.sleep(seconds)
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), error
    if number != signal.SIGKILL:
        assert "the same command goes on from there" in error and "Traceback" not in error


def left_behind(out):
    """Weights, metrics and figures of a run, as bytes and numbers; times aside, which no two runs share."""
    (folder,) = out.glob("*/*/seed0")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]
    files = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.suffix in (".png", ".gif", ".npz", ".safetensors")
    }
    return lines, files, leaves_of(folder)


def leaves_of(folder):
    with ocp.CheckpointManager(folder / "checkpoints" / "last") as manager:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    return [np.asarray(leaf) for name in ("params", "batch_stats", "opt_state") for leaf in _leaves(state[name])]


def _leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in _leaves(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [] if tree is None else [tree]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "devices"),
    [("arcloss", 1), ("arcloss", 3), ("mynn --augment", 1), ("mynn", 2), ("mynn --stream", 1)],
)
def test_killed_and_told_to_stop_at_random_moments(study, devices, start, tmp_path):
    finish(start(study, tmp_path / "whole", devices))

    moments = random.Random(0)
    blows = [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGKILL, 1)]
    for number, epochs in blows:  # none of the four epochs is left when the last one hits: figures are drawn
        after = moments.uniform(0, 0.1) if epochs else moments.uniform(1, 3)
        hit(start(study, tmp_path / "killed", devices), number, epochs, after)
    finish(start(study, tmp_path / "killed", devices))

    module = study.split()[0]
    lines, files, leaves = left_behind(tmp_path / "whole")
    again_lines, again_files, again_leaves = left_behind(tmp_path / "killed")
    assert again_lines == lines and len(lines) == 4
    assert again_files.keys() == files.keys() and len(files) == FILES[module]
    for name, content in files.items():
        assert again_files[name] == content, name
    assert len(leaves) > {"arcloss": 30, "mynn": 12}[module]
    for again, leaf in zip(again_leaves, leaves, strict=True):
        np.testing.assert_array_equal(again, leaf)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_told_to_stop_in_the_first_epoch(number, code, digits, tmp_path):
    """In the middle of an epoch of 160 steps: what is done of it is saved, and goes on."""
    arguments = [
        "--variant",
        "v0",
        "--epochs",
        "1",
        "--batch-size",
        "1",
        "--data",
        f"idx:{digits}",
        "--out",
        str(tmp_path),
    ]
    argv = [sys.executable, "-m", "experiments.arcloss", *arguments]
    config = tmp_path / "arcloss" / "v0" / "seed0" / "config.json"
    with subprocess.Popen(argv, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        while not config.exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == code, error
    assert "stopped after 0 epochs and " in error


def test_another_package_called_kernels(tmp_path):
    """One that comes first on the path: one sentence, and exit code 2."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise RuntimeError('not to be run')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    argv = [sys.executable, "-m", "experiments.arcloss", "--epochs", "1", "--out", str(tmp_path)]
    ended = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"the package `kernels` found at {tmp_path / 'kernels'} is not the one of jaxnets" in ended.stderr


@pytest.mark.parametrize("option", ["--help", "--list"])
def test_help_and_list_do_not_wait_for_jax(option):
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print({'jax', 'matplotlib', 'numpy'} & set(sys.modules)))\n"
        f"sys.argv = ['arcloss', {option!r}]\n"
        "runpy.run_module('experiments.arcloss', run_name='__main__')"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert told.stdout.endswith("set()\n")
