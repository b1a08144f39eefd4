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


@pytest.fixture(params=["arcloss", "mynn", "mynn --stream"])
def command(request, digits, pictures):
    """Starts a run of three epochs below a folder."""
    module, *more = request.param.split()
    arguments = {
        "arcloss": ["--variant", "v0", "--batch-size", "32", "--data", f"idx:{digits}"],
        "mynn": ["--size", "16", "--batch-size", "8", "--augment", "--data", f"folder:{pictures}"],
    }[module]
    arguments = [f"experiments.{module}", *arguments, "--epochs", "3", *more]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return lambda out: subprocess.Popen(
        [sys.executable, "-m", *arguments, "--out", str(out)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    with ocp.CheckpointManager(folder / "checkpoints" / "last") as manager:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    leaves = [np.asarray(leaf) for name in ("params", "batch_stats", "opt_state") for leaf in _leaves(state[name])]
    return lines, files, leaves


def _leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in _leaves(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [] if tree is None else [tree]


@pytest.mark.slow
def test_killed_at_random_moments_and_told_to_stop(command, tmp_path):
    started = time.perf_counter()
    with command(tmp_path / "whole") as whole:
        _, error = whole.communicate()
    assert whole.returncode == 0, error
    took = time.perf_counter() - started

    moments = random.Random(0)
    for _ in range(3):
        with command(tmp_path / "killed") as process:
            time.sleep(moments.uniform(0.3, 1.0) * took)
            process.kill()
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with command(tmp_path / "killed") as process:
            line = process.stdout.readline()
            process.send_signal(number)
            _, error = process.communicate()
        if not line.startswith("epoch") or process.returncode == 0:
            continue  # it had ended before it could be told
        assert process.returncode == code, error
        assert "saved in" in error and "the same command goes on from there" in error and "Traceback" not in error
    with command(tmp_path / "killed") as last:
        _, error = last.communicate()
    assert last.returncode == 0, error

    (study,) = (tmp_path / "whole").iterdir()
    lines, files, leaves = left_behind(tmp_path / "whole")
    again_lines, again_files, again_leaves = left_behind(tmp_path / "killed")
    assert again_lines == lines and len(lines) == 3
    assert again_files.keys() == files.keys()
    assert len(files) == {"arcloss": 3 + 2 * 3 + 4, "mynn": 3 + 4 + 1}[study.name]
    for name, content in files.items():
        assert again_files[name] == content, name
    assert len(leaves) > {"arcloss": 30, "mynn": 12}[study.name]
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
        time.sleep(0.3)
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
    check = "import sys, experiments.arcloss; assert not {'jax', 'matplotlib', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=True)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "experiments.arcloss", option], cwd=REPOSITORY, check=True, capture_output=True
    )
    assert (
        time.perf_counter() - started < 5
    )  # 0.3 s on a quiet machine; a guard against a heavy import, not a measurement
