"""The command in this process: what a run leaves, what it refuses, and how it goes on."""

import contextlib
import dataclasses
import io
import json
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from experiments.arcloss import __main__ as arcloss
from experiments.arcloss import config as options
from experiments.arcloss.config import Config
from experiments.arcloss.study import build
from experiments.arcloss.variants import VARIANTS, Sgd
from experiments.run import terminal
from experiments.run.experiment import check_takes
from experiments.run.folder import Folder
from experiments.run.progress import Progress
from jaxnets import create, load

FIGURES = ["curves.png", "angles.png", "confusion.png", "scatter.gif"]


@pytest.fixture(scope="module")
def run_once(digits, tmp_path_factory):
    """Two epochs of v0, shared by the tests that only look."""
    out = tmp_path_factory.mktemp("out")
    with (out / "printed").open("w") as printed, contextlib.redirect_stdout(printed):
        arcloss.command(config(digits, out))
    return out


def config(digits, out, **changes):
    return Config(**{"variant": "v0", "epochs": 2, "batch_size": 80, "data": f"idx:{digits}", "out": out} | changes)


def said(capsys, argv):
    """The exit code and what was said of a command line."""
    with pytest.raises(SystemExit) as stop:
        terminal.main(lambda: arcloss.command(terminal.parse(Config, "arcloss", [str(word) for word in argv])))
    return stop.value.code, capsys.readouterr().err


def test_a_run_leaves_all_that_it_promises(run_once, digits):
    folder = run_once / "arcloss" / "v0" / "seed0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        for name in ("train_loss", "test_loss", "learning_rate", "train_accuracy", "test_accuracy", "seconds"):
            assert np.isfinite(line[name]), name
        assert line["verdict"] in ("separated", "overlapping", "collapsed")
        assert line["separability"]["num_points"] == 100
        assert line["images_per_second"] == pytest.approx(160 / line["seconds"], rel=0.01)
    record = json.loads((folder / "config.json").read_text())
    assert record["config"]["margin"] == {"name": "arcface", "m": 0.3, "beyond": "classic"}
    assert record["config"]["net_optimizer"] == {"name": "Adam", "learning_rate": 1e-3}
    assert record["config"]["scale"] == pytest.approx(2**0.5 * np.log(9))
    assert record["environment"]["jax"] and record["environment"]["cpu_cores"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 2 and summary["verdict"] == lines[-1]["verdict"]
    assert summary["best"]["test_accuracy"] == max(line["test_accuracy"] for line in lines)
    for name in [*FIGURES, *(f"{kind}/epoch_000{i}.png" for kind in ("scatter", "circle") for i in (1, 2))]:
        with Image.open(io.BytesIO((folder / name).read_bytes())) as image:
            image.load()
            assert min(image.size) > 200, name
    with Image.open(folder / "scatter.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 2
    assert sorted(path.name for path in (folder / "checkpoints" / "last").iterdir()) == ["2", "4"]
    assert len(list((folder / "checkpoints" / "best").iterdir())) == 1


def test_a_finished_run_goes_no_further_and_a_longer_one_goes_on(digits, run_once, tmp_path):
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "arcloss" / "v0" / "seed0"
    first = (folder / "metrics.jsonl").read_text()
    arcloss.command(config(digits, tmp_path))
    assert (folder / "metrics.jsonl").read_text() == first
    arcloss.command(config(digits, tmp_path, epochs=3))
    assert (folder / "metrics.jsonl").read_text().startswith(first)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    with pytest.raises(terminal.UserError, match="holds 3 epochs already, more than the 2 asked for"):
        arcloss.command(config(digits, tmp_path))


@pytest.mark.slow
def test_another_configuration_is_refused_and_fresh_starts_over(digits, tmp_path):
    arcloss.command(config(digits, tmp_path, epochs=1))
    with pytest.raises(
        terminal.UserError, match=r"another configuration \(margin: .*scale: 3\.1\d+ → 64\.0\).*--fresh"
    ):
        arcloss.command(config(digits, tmp_path, epochs=1, margin="cosface", s=64.0))
    arcloss.command(config(digits, tmp_path, epochs=1, margin="cosface", s=64.0, fresh=True))
    file = tmp_path / "arcloss" / "v0" / "seed0" / "config.json"
    assert json.loads(file.read_text())["config"]["margin"] == {"name": "cosface", "m": 0.35}
    file.unlink()
    with pytest.raises(terminal.UserError, match=r"holds checkpoints and no config\.json to say of which run"):
        arcloss.command(config(digits, tmp_path, epochs=1))


@pytest.mark.slow
def test_a_head_with_statistics_is_resumed_with_them(digits, tmp_path):
    """And what the head is belongs to the configuration. Of a class with sub-centres one is drawn."""
    run = config(digits, tmp_path, epochs=1, margin="adaface", h=0.5, subcenters=2, margin_grad="straight_through")
    arcloss.command(run)
    folder = Folder(tmp_path / "arcloss" / "v0" / "seed0")
    experiment = build(VARIANTS["v0"], run, load(run.data))
    fresh, progress = experiment.state, Progress.of(experiment)
    assert progress.epoch == 1 and progress.state.head_stats.keys() == {"mean", "std"}
    lengths = np.linalg.norm(folder.arrays(1)["embeddings"], axis=1).mean()  # some lengths like those of training
    moved = {name: float(value - fresh.head_stats[name]) for name, value in progress.state.head_stats.items()}
    assert moved["mean"] == pytest.approx(0.0199 * (lengths - 20), rel=0.1) and -2 < moved["std"] < -1

    assert folder.arrays(1)["subcenters"].shape == (10, 2, 2) and folder.arrays(1)["class_weights"].shape == (10, 2)
    assert all((folder.path / name).exists() for name in FIGURES)
    other = dataclasses.replace(run, h=0.4, subcenters=3, margin_grad="exact")
    words = r'margin: .*"h": 0.5.* → .*"h": 0.4.*; margin_grad: "straight_through" → null; subcenters: 2 → 3'
    with pytest.raises(terminal.UserError, match=rf"another configuration \({words}\)"):
        arcloss.command(other)


@pytest.mark.slow
def test_two_classes_need_a_scale(digits, tmp_path, capsys):
    """Where AdaCos's √2·ln(C − 1) is 0."""
    folder = tmp_path / "two"
    folder.mkdir()
    for path in digits.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for kind, count in (("train", 160), ("t10k", 100)):
        labels = struct.pack(">HBBI", 0, 8, 1, count) + bytes(i % 2 for i in range(count))
        (folder / f"{kind}-labels-idx1-ubyte").write_bytes(labels)
    argv = ["--variant", "v0", "--epochs", 1, "--batch-size", 80, "--data", f"idx:{folder}", "--out", tmp_path]
    code, words = said(capsys, argv)
    assert code == 2 and words.count("\n") == 1
    assert (
        "has 2 classes: the AdaCos scale √2·ln(C − 1) needs three classes or more, not 2: state a scale with --s"
        in words
    )
    terminal.main(lambda: arcloss.command(terminal.parse(Config, "arcloss", [*map(str, argv), "--s", "2"])))
    assert len(strip_times(tmp_path / "arcloss" / "v0" / "seed0")) == 1


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(digits, run_once, tmp_path):
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "arcloss" / "v0" / "seed0"
    whole = strip_times(folder)
    for file in (folder / "checkpoints" / "last" / "4").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    arcloss.command(config(digits, tmp_path))
    assert strip_times(folder) == whole


def strip_times(folder):
    """metrics.jsonl without what no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "images_per_second")} for line in lines
    ]


def test_a_diverged_run_says_where_and_keeps_the_last_good_state(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(VARIANTS, "v0", dataclasses.replace(VARIANTS["v0"], net=Sgd(1e30)))
    argv = ["--variant", "v0", "--batch-size", 80, "--data", f"idx:{digits}", "--out", tmp_path]
    code, words = said(capsys, argv)
    assert code == 1
    assert "diverged: the loss was not finite at epoch 1, step " in words and "--fresh" in words
    summary = json.loads((tmp_path / "arcloss" / "v0" / "seed0" / "summary.json").read_text())
    assert summary["verdict"] == "diverged" and summary["epoch"] == 1
    assert said(capsys, argv)[0] == 1  # the same again: it is deterministic


@pytest.mark.slow
def test_two_devices_train_as_one_does(digits, tmp_path):
    for devices in (1, 2):
        arcloss.command(config(digits, tmp_path / str(devices), epochs=1, devices=devices))
    one, two = (strip_times(tmp_path / str(devices) / "arcloss" / "v0" / "seed0")[0] for devices in (1, 2))
    assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--variant", "v1_2_33"], "no variant 'v1_2_33'; did you mean 'v1_2_3'?"),
        (["--margin", "arcfac"], "no margin 'arcfac'; did you mean 'arcface'?"),
        (["--margin", "normface", "--m", "0.1"], "--margin normface takes no --m"),
        (["--margin", "combined", "--m", "0.1"], "takes no --m; it takes --m1, --m2, --m3"),
        (["--margin", "adafac"], "no margin 'adafac'; did you mean 'adaface'?"),
        (["--h", "0.3"], "--margin arcface takes no --h; it takes --beyond, --m"),
        (["--margin", "adaface", "--m1", "1"], "--margin adaface takes no --m1; it takes --h, --m"),
        (["--margin", "adaface", "--h", "-1"], "--h must be a finite number of 0 or more, not -1.0"),
        (["--margin", "curricularface", "--m", "nan"], "--m must be a finite number of 0 or more, not nan"),
        (["--subcenters", "0"], "--subcenters must be 1 or more, not 0"),
        (["--margin-grad", "none"], "invalid choice 'none' for argument '--margin-grad'"),
        (["--beyond", "upward"], "--beyond is classic, smooth or rising, not 'upward'"),
        (["--m", "-1"], "--m must be a finite number of 0 or more, not -1.0"),
        (["--s", "0"], "--s must be a positive number, not 0.0"),
        (["--s", "nan"], "--s must be a positive number, not nan"),
        (["--min-norm", "-1"], "--min-norm must be a finite number of 0 or more, not -1.0"),
        (["--epochs", "0"], "--epochs must be 1 or more, not 0"),
        (["--epochs", "ten"], "parsing --epochs: invalid literal"),
        (["--batch-size", "-3"], "--batch-size must be 1 or more, not -3"),
        (["--seed", "-1"], "--seed must be in 0"),
        (["--epoch", "3"], "nrecognized options: --epoch"),
        (["--devices", "99"], "99 devices were asked for"),
        (["--data", "imagenet"], "no such data set"),
        (["--data", "idx:/nowhere"], "/nowhere"),
        (["--seeds", "0"], "--seeds must be 1 or more, not 0"),
        (["--size", "32"], "mnist: size=32 has no meaning here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_sentence_and_exit_code_2(argv, words, capsys, tmp_path):
    code, error = said(capsys, [*argv, "--out", tmp_path])
    assert code == 2
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_a_place_that_cannot_be_written(digits, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    argv = ["--variant", "v0", "--data", f"idx:{digits}", "--out", tmp_path / "file"]
    code, error = said(capsys, argv)
    assert code == 2 and "cannot read or write" in error and "Not a directory" in error and error.count("\n") == 1


def test_a_full_disk(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))
    code, error = said(capsys, ["--variant", "v0", "--data", f"idx:{digits}", "--batch-size", 80, "--out", tmp_path])
    assert code == 2 and error.count("\n") == 1
    assert "cannot read or write" in error and "checkpoints" in error and "No space left on device" in error


def test_list_and_help(capsys):
    arcloss.command(Config(list=True))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(VARIANTS)
    assert lines[8].endswith("good: clearly separated, converges fast")
    with pytest.raises(SystemExit) as stop:
        terminal.parse(Config, "arcloss", ["--help"], examples=("--variant v0", ""))
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "examples:\n  arcloss --variant v0\n  arcloss\n" in said
    assert "--beyond {classic,smooth,rising}" in said and "{arcface,cosface," in said


def test_images_that_are_too_small_for_the_network_are_refused():
    with pytest.raises(terminal.UserError, match="at least 16×16, not 2×2"):
        check_takes(create("v1"), (2, 2, 1))


@pytest.mark.parametrize(
    ("data", "given", "loaded"),
    [
        ("mnist", None, None),
        ("tfds:mnist", None, None),
        ("folder:x", None, 28),
        ("faces", None, 28),
        ("folder:x", 64, 64),
    ],
)
def test_the_size_to_which_pictures_are_brought(data, given, loaded):
    assert Config(data=data, size=given).picture_size == loaded


@pytest.mark.slow
def test_a_batch_of_more_images_than_there_are_is_said(digits, tmp_path, capsys):
    arcloss.command(config(digits, tmp_path, epochs=1, batch_size=200))
    assert capsys.readouterr().out.startswith("note: --batch-size 200 is more than the 160 training images there are\n")


@pytest.mark.slow
def test_all_variants_share_a_sheet(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options, "VARIANTS", {name: VARIANTS[name] for name in ("v0", "v1_2_2")})
    arcloss.command(config(digits, tmp_path, variant="all", epochs=1, seeds=2))
    for seed in (0, 1):
        with Image.open(tmp_path / "arcloss" / f"sheet_seed{seed}.png") as sheet:
            assert sheet.width > sheet.height / 2
    assert capsys.readouterr().out.count("the 2 of them side by side") == 2
    begun = [Folder(tmp_path / "arcloss" / "v0" / f"seed{seed}").begun()["config"]["seed"] for seed in (0, 1)]
    assert begun == [0, 1]


def test_what_is_printed_is_meant_for_people(run_once):
    out = (run_once / "printed").read_text().splitlines()
    assert out[0].startswith("epoch 1/2  loss ") and out[2].split(":")[0] in ("collapsed", "overlapping", "separated")
    assert any(str(run_once) in line for line in out[3:])
