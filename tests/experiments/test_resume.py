"""Runs that stop within an epoch and go on, in this process, on one virtual device or several."""

import signal

import jax
import numpy as np
import pytest

from experiments.arcloss import drawings
from experiments.arcloss.__main__ import command
from experiments.arcloss.config import Config
from experiments.arcloss.study import build
from experiments.arcloss.variants import VARIANTS
from experiments.run import loop
from experiments.run.experiment import Experiment
from experiments.run.folder import Folder
from experiments.run.progress import Progress
from experiments.run.stored import NUMBERS
from experiments.run.terminal import Diverged, Interrupted
from experiments.trained import network
from jaxnets import checkpoint, load, torch_weights

CLOCKS = ("seconds", "images_per_second")  # of a line of metrics


def config(digits, out, **changes):
    """Three steps an epoch, of one batch size, so that each number of devices compiles one program."""
    few = {"epochs": 2, "batch_size": 48, "steps_per_epoch": 3}
    return Config(**{"variant": "v0", "data": f"idx:{digits}", "out": out} | few | changes)


def folder_of(out):
    return Folder(out / "arcloss" / "v0" / "seed0")


def lines_of(out):
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in folder_of(out).lines()]


@pytest.fixture(autouse=True)
def _no_drawings(monkeypatch):
    monkeypatch.setattr(drawings, "draw_epoch", lambda *of: lambda *_: None)
    monkeypatch.setattr(drawings, "draw_run", lambda *of: lambda *_: None)


@pytest.fixture
def stop_after(monkeypatch):
    """Has a run told to stop, as by Ctrl-C, after so many of its steps."""
    calls = Experiment.calls

    def after(steps):
        def told(self, *position):
            nonlocal steps
            for so_far in calls(self, *position):
                steps -= 1
                if steps == 0:
                    signal.raise_signal(signal.SIGINT)
                yield so_far

        monkeypatch.setattr(Experiment, "calls", told)

    return after


def test_two_devices_go_on_to_the_same_bits(digits, tmp_path, stop_after, capsys):
    """Stopped after the second of three steps of its second epoch; with margins that each step draws."""
    how = {"devices": 2, "margin": "elastic_arcface"}
    command(config(digits, tmp_path / "whole", **how))
    stop_after(5)
    with pytest.raises(Interrupted, match="stopped after 1 epoch and 2 steps") as stopped:
        command(config(digits, tmp_path / "parts", **how))
    assert stopped.value.exit_code == 130
    capsys.readouterr()
    command(config(digits, tmp_path / "parts", **how))
    assert capsys.readouterr().out.startswith("going on after 1 epoch and 2 steps\nepoch 2/2")
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")
    for epoch in (1, 2):
        whole, parts = (folder_of(tmp_path / name).arrays(epoch) for name in ("whole", "parts"))
        jax.tree.map(np.testing.assert_array_equal, parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["adacos", "elastic_cosface", "magface", "sphereface2", "uniface"])
def test_losses_that_draw_follow_or_learn_go_on_to_the_same_bits(loss, digits, tmp_path, stop_after):
    """Margins drawn by the step or by length, a scale that follows, and a bias that is learned; and their networks."""
    command(config(digits, tmp_path / "whole", margin=loss))
    stop_after(5)
    with pytest.raises(Interrupted, match="stopped after 1 epoch and 2 steps"):
        command(config(digits, tmp_path / "parts", margin=loss))
    command(config(digits, tmp_path / "parts", margin=loss))
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")
    whole, parts = (folder_of(tmp_path / name).arrays(2) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    trained = network.load(folder_of(tmp_path / "parts").path, None)
    assert trained.class_weights.shape == (10, 2) and trained.program("scores").output == "scores"
    variables = {**trained.variables, "head": {"class_weights": trained.class_weights}}
    assert torch_weights.to_torch("v0", variables)["head.weight"].shape == (2, 10)


@pytest.fixture
def poison_after(monkeypatch):
    """Makes every parameter NaN after so many steps."""
    calls = Experiment.calls

    def after(steps):
        def poisoned(self, *position):
            nonlocal steps
            state = position[0]
            while True:
                step = next(calls(self, state, *position[1:]), None)
                if step is None:
                    return
                state, totals, done = step
                steps -= 1
                if steps == 0:
                    state = state.replace(params=jax.tree.map(lambda leaf: leaf * np.float32("nan"), state.params))
                yield state, totals, done
                position = (state, totals, position[2], done)

        monkeypatch.setattr(Experiment, "calls", poisoned)

    return after


@pytest.mark.parametrize(
    ("poisoned", "epoch", "step", "kept"),
    [pytest.param(1, 1, 2, False, marks=pytest.mark.slow), (3, 1, 3, False), (4, 2, 2, True)],
    ids=["within the first epoch", "at its end", "within the second"],
)
def test_the_very_step_of_a_divergence_is_told(poisoned, epoch, step, kept, poison_after, digits, tmp_path):
    """The step whose loss is the first not finite; at an epoch's end, the one that left such parameters."""
    poison_after(poisoned)
    with pytest.raises(Diverged) as error:
        command(config(digits, tmp_path))
    folder = folder_of(tmp_path)
    last = f"the last good state is kept in {folder.path / 'checkpoints' / 'last'}"
    assert f"not finite at epoch {epoch}, step {step}; {last if kept else 'no good state was saved before'}; " in str(
        error.value
    )
    assert folder.summary() == {"verdict": "diverged", "epoch": epoch, "step": step}
    assert len(folder.lines()) == epoch - 1
    assert [*map(str, checkpoint.numbers(folder.path / "checkpoints" / "last"))] == (["3"] if kept else [])


def test_the_newest_state_is_taken_and_of_equally_good_ones_the_first_is_the_best(digits, tmp_path):
    run = config(digits, tmp_path)
    experiment = build(VARIANTS["v0"], run, load(run.data))
    progress = Progress.of(experiment)
    start = progress.state
    for epoch, accuracy in ((1, 0.5), (2, 0.75), (3, 0.75), (4, 0.25)):
        progress.state = start.replace(step=start.step + 3 * epoch)
        numbers = dict.fromkeys(NUMBERS, accuracy)
        gaps = {"smallest_gap_degrees": None, "largest_gap_degrees": None}
        progress.record({"epoch": epoch, **numbers, "verdict": "collapsed", "separability": gaps}, {})
    folder = folder_of(tmp_path)
    assert checkpoint.numbers(folder.path / "checkpoints" / "best") == [6]
    assert checkpoint.numbers(folder.path / "checkpoints" / "last") == [12, 9]
    resumed = Progress.of(build(VARIANTS["v0"], run, load(run.data)))
    assert int(resumed.state.step) == 12 and resumed.epoch == 4
    assert loop.summarise(folder, resumed.lines, loop.Clock(0.0))["best"] == {"epoch": 2, "test_accuracy": 0.75}


@pytest.mark.slow
def test_runs_go_on_with_other_devices(digits, tmp_path, stop_after):
    """2 → 4 → 1, each time within an epoch, as one device trains all the way."""
    command(config(digits, tmp_path / "one"))
    for devices, steps in ((2, 2), (4, 2), (1, 10)):
        stop_after(steps)
        run = config(digits, tmp_path / "many", devices=devices)
        if devices == 1:
            command(run)
        else:
            with pytest.raises(Interrupted):
                command(run)
    one, many = ([line["train_loss"] for line in lines_of(tmp_path / name)] for name in ("one", "many"))
    assert len(many) == 2 and many == pytest.approx(one, rel=1e-3)


def test_a_resumed_run_is_placed_as_a_fresh_one(digits, tmp_path):
    for devices in (1, 2):
        run = config(digits, tmp_path / str(devices), devices=devices)
        experiment = build(VARIANTS["v0"], run, load(run.data))
        fresh = Progress.of(experiment)
        fresh.save()
        resumed = Progress.of(build(VARIANTS["v0"], run, load(run.data)))
        for one, other in ((fresh.state, resumed.state), (fresh.totals, resumed.totals)):
            of_one, of_other = jax.tree.leaves(one), jax.tree.leaves(other)
            assert [leaf.sharding for leaf in of_one] == [leaf.sharding for leaf in of_other]
            assert all(len(leaf.devices()) == devices for leaf in of_one)
