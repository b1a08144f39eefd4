"""Runs that are really killed, and told to stop, end with the bits of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import kill
from experiments.kill import draw_pictures, left_behind, wait

REPOSITORY = Path(__file__).parents[2]
FILES = {"arcloss": 4 + 2 * 4 + 4, "mynn": 4 + 4 + 1}  # of a run of four epochs, apart from those that hold times


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "two")


@pytest.fixture
def start(digits, pictures):
    """Starts a study's run of four epochs of forty steps below a folder, on virtual devices."""

    def process(study, out, devices):
        module, *more = study.split()
        arguments = {
            "arcloss": {"variant": "v0", "batch-size": 4, "data": f"idx:{digits}"},
            "mynn": {"size": 64, "batch-size": 2, "steps-per-epoch": 40, "data": f"folder:{pictures}"},
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


def meet(process, number, epochs, seconds):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "devices"),
    [("arcloss", 3), ("mynn --augment --stream", 1)],
)
def test_killed_and_told_to_stop_at_random_moments(study, devices, start, tmp_path):
    wait(start(study, tmp_path / "whole", devices))

    moments = random.Random(0)
    blows = [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGKILL, 1)]
    for number, epochs in blows:  # none of the four epochs is left when the last one hits: figures are drawn
        after = moments.uniform(0, 0.1) if epochs else moments.uniform(1, 3)
        meet(start(study, tmp_path / "killed", devices), number, epochs, after)
    wait(start(study, tmp_path / "killed", devices))

    module = study.split()[0]
    whole, killed = (left_behind(tmp_path / name) for name in ("whole", "killed"))
    assert killed == whole
    lines, files, arrays = whole
    assert len(lines) == 4 and len(files) == FILES[module] and len(arrays) > {"arcloss": 30, "mynn": 12}[module]


@pytest.mark.slow
def test_the_command_counts_its_kills(monkeypatch, digits, tmp_path):
    words = (*["experiments.arcloss", "--variant", "v0", "--batch-size", "4"], "--data", f"idx:{digits}")
    monkeypatch.setattr(kill, "SCENARIOS", (kill.Scenario("digits", words),))
    with pytest.raises(SystemExit) as stop:
        kill.command(kill.Config(kills=1, out=tmp_path / "kills.json"))
    counts = json.loads((tmp_path / "kills.json").read_text())
    assert stop.value.code == 0 and counts["faults"] == [] and sum(counts["kills"].values()) == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGTERM", "SIGINT"],
)
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
