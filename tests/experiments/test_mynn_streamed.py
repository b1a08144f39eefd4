"""The gender study on pictures that do not fit: streamed, or kept on the host; to the same bits, and resumed."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from experiments.mynn import study
from experiments.mynn.__main__ import command
from experiments.mynn.config import Config
from experiments.run.folder import Folder
from experiments.run.pictures import open_stream
from jaxnets import evaluate, load, parallel
from jaxnets.data import threads
from jaxnets.epochs import train_epoch_by_stream
from tests.experiments.test_mynn import SIZE, config, said


def stream_of(config):
    return open_stream(config.data, size=config.size, batch_size=config.batch_size, seed=config.seed)


def test_a_stream_goes_on_at_the_very_picture_where_it_stopped(pictures, tmp_path):
    """Stopped after five of eight steps, in the middle of its second epoch."""
    whole = config(pictures, tmp_path / "whole", stream=True)
    command(whole)
    folder = Folder(study.folder_of(whole, "mynn"))
    cut = dataclasses.replace(whole, out=tmp_path / "cut")
    experiment = study.build("mynn", cut, stream_of(cut))
    state = experiment.state
    for epoch, steps in ((0, 4), (1, 1)):
        calls = train_epoch_by_stream(state, experiment.train, experiment.plan, epoch)
        *_, (state, totals, _) = itertools.islice(calls, steps)
    end = train_epoch_by_stream(state, experiment.train, experiment.plan, 1, done=1, totals=totals)
    *_, (state, totals, done) = end
    assert done == 4 and int(totals.examples) == 28
    np.testing.assert_array_equal(totals.losses, folder.arrays(2)["step_losses"])
    np.testing.assert_array_equal(evaluate(state, experiment.test, 8).embeddings, folder.arrays(2)["scores"])


@pytest.mark.slow
def test_a_stream_trains_on_several_devices(pictures, tmp_path):
    """As on one, within rounding."""
    losses = []
    for devices in (1, 2):
        streamed = config(pictures, tmp_path / str(devices), stream=True, devices=devices, epochs=1, batch_size=14)
        command(streamed)
        losses.append(Folder(study.folder_of(streamed, "mynn")).arrays(1)["step_losses"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_set_that_does_not_fit_stays_on_the_host_and_trains_to_the_same_bits(pictures, tmp_path, monkeypatch):
    fits = config(pictures, tmp_path / "fits")
    command(fits)
    monkeypatch.setattr(parallel, "room_for_data", lambda mesh: 40 * SIZE * SIZE * 3)  # the labels are too much
    large = config(pictures, tmp_path / "large")
    command(large)
    dataset = load(large.data, size=SIZE)
    assert study.build("mynn", large, dataset).train.images is dataset.train.images
    runs = [Folder(study.folder_of(each, "mynn")) for each in (fits, large)]
    for epoch in (1, 2):
        one, other = (run.arrays(epoch) for run in runs)
        np.testing.assert_array_equal(one["scores"], other["scores"])
        np.testing.assert_array_equal(one["step_losses"], other["step_losses"])


@pytest.mark.parametrize("stream", [False, True], ids=["kept", "streamed"])
def test_celeb_a_is_told_by_its_attribute_male(celeb_a, tmp_path, monkeypatch, stream):
    monkeypatch.setenv("TFDS_DATA_DIR", str(celeb_a))
    monkeypatch.setattr(parallel, "room_for_data", lambda mesh: 0)
    celebrities = Config(data="tfds:celeb_a", size=SIZE, epochs=10, batch_size=4, out=tmp_path, stream=stream)
    command(celebrities)
    folder = Folder(study.folder_of(celebrities, "mynn"))
    assert folder.lines()[-1]["test_accuracy"] == 1.0
    assert json.loads((folder.path / "config.json").read_text())["config"]["classes"] == ["female", "male"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_picture_that_cannot_be_read_keeps_a_stream_from_training(pictures, tmp_path, capsys, split):
    """The test split's too, which no step would ever come upon."""
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    next((root / split / "dark").iterdir()).write_bytes(b"no picture")
    argv = ["--data", f"folder:{root}", "--stream", "--size", SIZE, "--batch-size", 8, "--out", tmp_path / "out"]
    code, error = said(capsys, argv)
    assert code == 2 and error.count("\n") == 1
    assert "1 of 40 pictures cannot be read" in error and "is no picture in any known format." in error
    assert "leave them out by skip_unreadable=True (--skip-unreadable)" in error
    assert not (tmp_path / "out").exists()
    command(config(root, tmp_path / "out", epochs=1, steps_per_epoch=2, stream=True, skip_unreadable=True))
    assert "note: Left out, as 1 of 40 pictures cannot be read" in capsys.readouterr().out


def test_pictures_are_looked_through_before_they_are_streamed(pictures, tmp_path, capsys, monkeypatch):
    """Once, and what is there twice is said each time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "pictures"
    shutil.copytree(pictures, root)
    (twice := next((root / "test" / "dark").iterdir())).write_bytes((root / "train" / "dark" / "3.png").read_bytes())
    streamed = config(root, tmp_path, stream=True)
    notes = [stream_of(streamed).notes]
    monkeypatch.setattr(threads, "decode", None)  # looked through again, it would be called
    notes.append(stream_of(streamed).notes)
    assert notes[0] == notes[1]
    assert f"in both splits, byte for byte: train/dark/3.png is test/dark/{twice.name}" in notes[0][0]
