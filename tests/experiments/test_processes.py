"""Commands that several processes of this machine run together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.run import processes
from experiments.run.folder import Folder

ROOT = Path(__file__).parents[2]
LEAST = "--xla_backend_optimization_level=0"  # of what runs for seconds, most would be spent on optimising it
# The last bit of a convolution depends on the number of threads, which XLA takes from the machine unless it is told.
SAME = {"XLA_FLAGS": LEAST, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "2"}
CLOCKS = ("seconds", "images_per_second")  # of a line of metrics


ON_THE_HOST = """
import jaxnets.parallel
from experiments.arcloss.__main__ import Config, command
from experiments.run.terminal import main, parse
jaxnets.parallel._ROOM_ON_CPU = 0
main(lambda: command(parse(Config, "it")))
"""


def begun(digits, out, *arguments, environment=None, how=("-m", "experiments.arcloss")):
    """Six batches of 24 pictures and one of 16 an epoch; one device in each process."""
    command = [*how, "--variant", "v0", "--batch-size", "24", "--data", f"idx:{digits}", "--out", out]
    return subprocess.Popen(
        [sys.executable, *map(str, command), *map(str, arguments)],
        env=os.environ | SAME | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error


def lines_of(out):
    lines = Folder(out / "arcloss" / "v0" / "seed0").lines()
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def children(process):
    """The processes that it started, in order."""
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in tasks.read_text().split()]


def wait_for_epoch(process):
    """Until the first epoch has ended, and so something can be lost."""
    line = process.stdout.readline()
    assert line.startswith("epoch "), line


@pytest.mark.slow
def test_two_processes_train_as_two_devices_and_go_on_as_three(digits, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    by_two = begun(digits, two, "--epochs", 2, "--processes", 2)
    of_two = {"XLA_FLAGS": f"{LEAST} --xla_force_host_platform_device_count=2"}
    by_one = begun(digits, one, "--epochs", 3, "--devices", 2, environment=of_two)
    code, said, error = ended(by_two)
    assert (code, error) == (0, "") and said.count("epoch 1/2") == 1, (said, error)
    assert ended(by_one)[0] == 0
    assert lines_of(two) == lines_of(one)[:2]
    for number in (1, 2):
        arrays = [Folder(out / "arcloss" / "v0" / "seed0").arrays(number) for out in (two, one)]
        assert arrays[0].keys() == arrays[1].keys()
        for name in arrays[0]:
            np.testing.assert_array_equal(arrays[0][name], arrays[1][name], err_msg=name)
    code, said, error = ended(begun(digits, two, "--epochs", 3, "--processes", 3))
    assert code == 0 and "going on after 2 epochs" in said, (said, error)
    third, alone = (lines_of(out)[2] for out in (two, one))
    assert third["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux alone lists a process's children there")
def test_a_signal_to_any_process_saves_and_ends_all_of_them(digits, tmp_path):
    process = begun(digits, tmp_path, "--epochs", 500, "--processes", 2)
    wait_for_epoch(process)
    os.kill(children(process)[1], signal.SIGTERM)
    code, said, error = ended(process)
    assert code == 128 + signal.SIGTERM and "the same command goes on from there" in error, (said, error)
    kept = lines_of(tmp_path)

    process = begun(digits, tmp_path, "--epochs", 500, "--processes", 2)
    assert process.stdout.readline().startswith(f"going on after {len(kept)} epoch")
    wait_for_epoch(process)
    os.kill(children(process)[1], signal.SIGKILL)
    before = time.monotonic()
    code, said, error = ended(process)
    assert time.monotonic() - before < 2 * processes.GRACE
    assert code == 128 + signal.SIGKILL, (said, error)
    assert error == (
        "error: process 2 of 2 was killed by signal 9, and the others were stopped; the same command goes on from the "
        "last checkpoint\n"
    )
    assert lines_of(tmp_path)[: len(kept)] == kept

    process = begun(digits, tmp_path, "--epochs", 500, "--processes", 2)
    assert process.stdout.readline().startswith("going on after ")
    mine = children(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{number}").exists() for number in mine):
        assert time.monotonic() < deadline, "the processes outlive the one that watched them"
        time.sleep(0.1)


@pytest.mark.slow
def test_of_a_set_on_the_host_each_process_gathers_its_rows(digits, tmp_path):
    how = ("-c", ON_THE_HOST)
    two = begun(digits, tmp_path / "two", "--epochs", 1, "--processes", 2, how=how)
    of_two = {"XLA_FLAGS": f"{LEAST} --xla_force_host_platform_device_count=2"}
    one = begun(digits, tmp_path / "one", "--epochs", 1, "--devices", 2, how=how, environment=of_two)
    for code, said, error in map(ended, (two, one)):
        assert (code, error) == (0, ""), said
    assert lines_of(tmp_path / "two") == lines_of(tmp_path / "one")


@pytest.mark.slow
def test_bad_input_is_said_once(tmp_path):
    code, said, error = ended(begun(tmp_path / "nowhere", tmp_path, "--processes", 2))
    assert code == 2 and error.count("error: ") == 1 and error.count("\n") == 1 and "nowhere" in error, (said, error)


@pytest.mark.slow
def test_a_launcher_is_found_out(digits, tmp_path):
    """SLURM's variables, as `srun --ntasks 2` sets them on one machine."""
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
    }
    both = [
        begun(
            digits,
            tmp_path,
            "--epochs",
            1,
            environment=slurm | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
        )
        for number in range(2)
    ]
    (code, said, error), (other_code, other_said, other_error) = map(ended, both)
    assert (code, other_code) == (0, 0), (error, other_error)
    assert said.startswith("epoch 1/1") and other_said == ""
    assert len(lines_of(tmp_path)) == 1


def test_what_counts_as_launched():
    assert not processes.is_launched({})
    assert not processes.is_launched({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"})
    assert processes.is_launched({"SLURM_STEP_NUM_TASKS": "4"})
    assert processes.is_launched({"OMPI_COMM_WORLD_SIZE": "2"})
    assert not processes.is_launched({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert processes.is_launched({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"})
    assert processes.is_launched({"JAX_COORDINATOR_ADDRESS": "localhost:1"})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES and JAX_PROCESS_ID must be numbers, not 2"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "must be numbers, not two and 0"),
        ({}, "this process cannot join the others: No launcher; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and"),
    ],
)
def test_a_launcher_that_says_too_little_is_refused(monkeypatch, variables, message):
    for name, value in {"JAX_COORDINATOR_ADDRESS": "localhost:1", **variables}.items():
        monkeypatch.setenv(name, value)

    def initialize(**numbers):
        raise ValueError("No launcher.\nMore of JAX's words.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=message):
        processes.join()


@pytest.mark.parametrize(
    ("codes", "culprit"),
    [([0, 2], 1), ([2, -6], 0), ([processes.LOST, -9], 1), ([processes.LOST, None, 1], 2), ([None, processes.LOST], 1)],
)
def test_a_process_that_lost_the_others_is_not_to_blame(codes, culprit):
    assert processes._culprit(codes) == culprit


def test_of_processes_that_end_in_errors_the_first_has_said_why():
    def ending(*codes):
        return [subprocess.Popen([sys.executable, "-c", f"import os; os._exit({code})"]) for code in codes]

    assert processes._wait(ending(0, 0)) is None
    assert processes._wait(ending(2, 2)) == 0
    assert processes._wait(ending(0, 3)) == 1
    assert processes._wait(ending(processes.LOST, 3)) == 1
    waiting = [*ending(processes.LOST), subprocess.Popen([sys.executable, "-c", "import os; os.abort()"])]
    assert processes._wait(waiting) == 1
    stuck = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]), *waiting[1:]]
    assert processes._wait(stuck) == 1 and stuck[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        ("0", 0, ""),
        ("mine == '0' and sys.exit(2)", 2, ""),
        ("mine == '1' and sys.exit('error: no disk')", 1, "process 2 of 2 ended with exit code 1 (error: no disk)"),
        ("mine == '1' and os.kill(os.getpid(), 9)", 137, "process 2 of 2 was killed by signal 9"),
        ("mine == '0' and os._exit(75)", 75, "process 1 of 2 lost the others"),
    ],
    ids=["well", "told", "elsewhere", "killed", "lost"],
)
def test_how_they_end_is_said_once(monkeypatch, capfd, act, code, message):
    script = f"import os, sys; mine = os.environ['JAX_PROCESS_ID']; {act}"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", script])
    with pytest.raises(SystemExit) as stop:
        processes.start(2)
    told = f"error: {message}, and the others were stopped; the same command goes on from the last checkpoint\n"
    assert stop.value.code == code and capfd.readouterr().err == (told if message else "")
