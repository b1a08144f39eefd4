"""Recognition with class weights that are split over the devices: `--shard-classes`."""

import signal

import numpy as np
import pytest
from PIL import Image

from experiments.recognition import drawings
from experiments.recognition.__main__ import command
from experiments.recognition.config import Config
from experiments.run import terminal
from experiments.run.experiment import Experiment
from experiments.run.folder import Folder
from jaxnets import checkpoint

CLASSES = 13  # of which ten are for training, which neither three nor four devices share equally


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """Thirteen identities, each of a brightness of its own, with four pictures."""
    root, rng = tmp_path_factory.mktemp("identities"), np.random.default_rng(0)
    for name in range(CLASSES):
        (root / f"{name:02}").mkdir()
        for number in range(4):
            pixels = (18 * name + rng.integers(0, 12, (16, 16))).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"{name:02}" / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def _no_drawings(monkeypatch):
    monkeypatch.setattr(drawings, "draw_run", lambda *of: lambda *_: None)


def config(identities, out, **changes):
    small = {"model": "mynn_relu", "embedding": 8, "size": 16, "epochs": 2, "batch_size": 12, "warmup": 0.0, "lr": 0.02}
    return Config(**{"data": f"identities:{identities}", "out": out, "shard_classes": True} | small | changes)


def folder_of(out):
    return Folder(out / "recognition" / "mynn_relu" / "arcface" / "seed0")


def class_weights_of(out):
    _, tree = checkpoint.restore(folder_of(out).path / "checkpoints" / "last")
    return tree["params"]["head"]["class_weights"]


def last_losses(out):
    return folder_of(out).arrays(2)["step_losses"]


@pytest.mark.parametrize("sample", [pytest.param(None, marks=pytest.mark.slow), 0.5])
def test_a_run_goes_on_with_classes_split_over_another_number_of_devices(
    identities, tmp_path, monkeypatch, capsys, sample
):
    command(config(identities, tmp_path / "one", sample=sample))
    capsys.readouterr()

    calls, steps = Experiment.calls, 0

    def told(self, *position):
        nonlocal steps
        for so_far in calls(self, *position):
            steps += 1
            if steps == self.plan.steps + 1:
                signal.raise_signal(signal.SIGINT)
            yield so_far

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "calls", told)
        with pytest.raises(terminal.Interrupted, match="stopped after 1 epoch and 1 step"):
            command(config(identities, tmp_path / "more", sample=sample, devices=4))
    assert class_weights_of(tmp_path / "more").shape == (10, 8)
    command(config(identities, tmp_path / "more", sample=sample, devices=3))
    assert "going on after 1 epoch and 1 step\n" in capsys.readouterr().out
    np.testing.assert_allclose(last_losses(tmp_path / "more"), last_losses(tmp_path / "one"), rtol=1e-3)
    np.testing.assert_allclose(class_weights_of(tmp_path / "more"), class_weights_of(tmp_path / "one"), atol=1e-3)
    recorded = folder_of(tmp_path / "more").begun()["config"]
    assert (recorded["shard_classes"], recorded["sample"]) == (True, sample)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_classes": False, "sample": 0.5}, "--sample is of --shard-classes: give that too"),
        ({"sample": 0.0}, r"--sample is a share of the classes, in \(0, 1\], not 0.0"),
        ({"margin": "adacos"}, "--shard-classes is not for --margin adacos, which needs all classes in one place"),
        ({"margin": "uniface"}, "--shard-classes is not for --margin uniface"),
        ({"devices": 99}, "99 devices were asked for"),
    ],
    ids=str,
)
def test_what_cannot_be_split_is_refused(identities, tmp_path, changes, message):
    with pytest.raises(terminal.UserError, match=message):
        command(config(identities, tmp_path, **changes))


def test_losses_that_can_be_split_are_compared():
    assert {*Config(margin="all").margins} - {*Config(margin="all", shard_classes=True).margins} == {
        *("adacos", "sphereface2", "uniface")
    }
