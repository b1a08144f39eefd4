"""The gender study's command in this process: what a run leaves, what it refuses, what begins with given weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import predict
from experiments.mynn import config as options
from experiments.mynn import study
from experiments.mynn.__main__ import command
from experiments.mynn.config import Config
from experiments.mynn.drawings import contender
from experiments.run import terminal
from experiments.run.folder import Folder
from experiments.tables.collect import compare
from experiments.tables.runs import classifiers_table, networks_picture, networks_table
from experiments.trained import network
from jaxnets import create, load
from jaxnets.torch_weights import from_torch, save

SIZE = 16


def config(pictures, out, **changes):
    common = {"data": f"folder:{pictures}", "size": SIZE, "epochs": 2, "batch_size": 8, "out": out}
    return Config(**common | changes)


@pytest.fixture(scope="module")
def run_once(pictures, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("out")
        command(config(pictures, out, epochs=6))
    return out / "mynn" / "mynn" / "seed0"


def said(capsys, argv):
    """The exit code and what was said of a command line."""
    with pytest.raises(SystemExit) as stop:
        terminal.main(lambda: command(terminal.parse(Config, "mynn", [str(word) for word in argv])))
    return stop.value.code, capsys.readouterr().err


@pytest.mark.slow
def test_runs_of_several_recipes_make_a_table(run_once, pictures, tmp_path):
    other = config(pictures, tmp_path, epochs=1, optimizer="adam", schedule="cosine", averaging=0.5)
    command(other)
    text = classifiers_table(compare([run_once, study.folder_of(other, "mynn")]))
    assert "| mynn | sgd 0.01 | 6 | 1 | 100.00 | 100.00 |" in text
    assert "| mynn | adam 0.001, cosine, averaging 0.5 | 1 | 1 |" in text and "pictures of 16×16" in text
    elsewhere = config(pictures, tmp_path / "small", epochs=1, size=8)
    command(elsewhere)
    with pytest.raises(terminal.UserError, match="of different pictures"):
        compare([run_once, study.folder_of(elsewhere, "mynn")])


def test_seeds_of_a_recipe_share_a_row(run_once):
    """Of 90 % and 94 %: 92 %, and √(4/2) % from it twice. √(0.92·0.08 / 12) is 7.83 %."""
    result = compare([run_once, run_once])
    result["rows"][0]["test_accuracy"] = [0.5, 0.90]
    result["rows"][1]["test_accuracy"] = [0.5, 0.94]
    text = classifiers_table(result)
    assert "| mynn | sgd 0.01 | 2 | 2 | 92.00 ± 2.83 | 92.00 ± 2.83 |" in text
    assert "Of 12 test pictures, an accuracy of 92 % has a standard error of 7.83 %." in text and "one seed" in text


def test_networks_make_a_table_and_a_picture_the_smallest_first(run_once):
    small = compare([run_once])["rows"][0] | {"last_accuracy": 0.90, "best_accuracy": 0.94, "seconds_per_epoch": 7.4}
    large = small | {"name": "large", "parameters": 2_226_434, "megabytes": 8.73}
    result = {"rows": [large, small]}
    lines = networks_table(result).splitlines()
    assert lines[2].startswith("| mynn | 95,906 | 0.37 |") and lines[2].endswith("| 90.00 | 94.00 | 7 |")
    assert lines[3].startswith("| large | 2,226,434 | 8.73 |")
    accuracy = networks_picture(result).axes[0]
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["mynn", "large"]


def test_a_run_learns_and_leaves_all_that_it_promises(run_once):
    folder = Folder(run_once)
    lines = folder.lines()
    assert lines[-1]["test_accuracy"] == 1.0
    for line in lines:
        arrays = folder.arrays(line["epoch"])
        assert arrays["scores"].shape == (12, 2) and arrays["step_losses"].shape == (4,)
        weighted = arrays["step_losses"] * [8, 8, 8, 4]
        assert line["train_loss"] == pytest.approx(weighted.sum() / 28, rel=1e-5)
        assert line["test_accuracy"] == np.mean(arrays["scores"].argmax(axis=1) == np.repeat([0, 1], 6))
    for name in ("curves.png", "steps.png", "confusion.png", "mistakes.png"):
        with Image.open(run_once / name) as picture:
            assert picture.width > 300
    variables = from_torch("mynn", run_once / "weights.safetensors")
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 95_906
    recorded = json.loads((run_once / "config.json").read_text())["config"]
    assert (recorded["learning_rate"], recorded["optimizer"]) == (0.01, "sgd")
    assert recorded["image_shape"] == [SIZE, SIZE, 3]


def test_a_classifiers_run_has_no_embeddings(run_once):
    with pytest.raises(terminal.UserError, match="mynn was trained as a classifier: it makes scores"):
        network.load(run_once, None).program("embeddings")


def test_predict_takes_such_a_run(run_once, pictures, capsys):
    predict.command(predict.Config(run_once, (pictures / "test" / "light" / "0.png",)))
    assert "light" in capsys.readouterr().out


def test_weights_of_a_file_are_taken_but_for_a_last_layer_of_another_shape(pictures, tmp_path):
    shape = np.zeros((1, SIZE, SIZE, 3), np.float32)
    three = jax.jit(create("mynn", 3).init)(jax.random.key(7), shape)
    save(tmp_path / "three.safetensors", "mynn", three)
    experiment = study.build("mynn", config(pictures, tmp_path), load(f"folder:{pictures}", size=SIZE))
    state, left = study.begin_with(
        experiment.state, "mynn", from_torch("mynn", tmp_path / "three.safetensors"), "three"
    )
    begun = state.params["net"]
    assert len(left) == 2
    same = jax.tree.map(lambda a, b: a.shape == b.shape and bool((a == b).all()), begun, three["params"])
    kept = jax.tree.map(lambda a, b: a is b, begun, experiment.state.params["net"])
    assert sum(jax.tree.leaves(same)) == len(jax.tree.leaves(same)) - 2 and sum(jax.tree.leaves(kept)) == 2
    other = jax.jit(create("mynn", 2).init)(jax.random.key(7), np.zeros((1, 24, 24, 3), np.float32))
    save(tmp_path / "large.safetensors", "mynn", other)
    given = from_torch("mynn", tmp_path / "large.safetensors")
    _, left = study.begin_with(experiment.state, "mynn", given, "large.safetensors")
    assert len(left) == 1  # the first Linear alone is of the images' size


def test_imagenets_mean_and_deviation_are_applied_in_training_and_wherever_the_run_is_used(pictures, tmp_path, capsys):
    given = jax.jit(create("mynn", 3).init)(jax.random.key(7), np.zeros((1, SIZE, SIZE, 3), np.float32))
    save(tmp_path / "three.safetensors", "mynn", given)
    run = config(pictures, tmp_path, epochs=1, pretrained=tmp_path / "three.safetensors", inputs="imagenet")
    command(run)
    assert "images are normalised by ImageNet's mean and standard deviation" in capsys.readouterr().out
    folder = Folder(study.folder_of(run, "mynn"))
    assert folder.begun()["config"]["inputs"] == "imagenet"
    program = network.load(folder.path, None).program("scores")
    images = np.asarray(load(f"folder:{pictures}", size=SIZE).test.images)
    kept = folder.arrays(1)["scores"]
    np.testing.assert_allclose(jax.jit(program.apply)(program.weights, images), kept, rtol=1e-4, atol=1e-5)
    variables = from_torch("mynn", folder.path / "weights.safetensors")
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    normalised = (np.asarray(images, np.float32) / 255 - mean[None, None, None]) / deviation[None, None, None]
    np.testing.assert_allclose(jax.jit(create("mynn", 2).apply)(variables, normalised), kept, rtol=1e-3, atol=1e-4)


def test_all_networks_share_a_table(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options, "NETWORKS", ("mynn_relu", "mynn"))
    command(config(pictures, tmp_path, model="all", epochs=1))
    out = capsys.readouterr().out.splitlines()
    header = next(i for i, text in enumerate(out) if text.split()[:2] == ["network", "parameters"])
    assert [out[header + 1].split()[:2], out[header + 2].split()[:2]] == [["mynn_relu", "95,906"], ["mynn", "95,906"]]
    numbers = json.loads((tmp_path / "mynn" / "comparison_seed0.json").read_text())["networks"]
    assert [network["name"] for network in numbers] == ["mynn_relu", "mynn"]
    file = tmp_path / "mynn" / "mynn" / "seed0" / "weights.safetensors"
    assert numbers[1]["megabytes"] == file.stat().st_size / 2**20
    with Image.open(tmp_path / "mynn" / "comparison_seed0.png") as picture:
        assert picture.width > picture.height


@pytest.mark.slow
def test_averaged_weights_are_evaluated_saved_and_resumed(pictures, tmp_path):
    options = {"averaging": 0.5, "lr": 0.003}
    command(config(pictures, tmp_path / "whole", epochs=2, **options))
    command(config(pictures, tmp_path / "parts", epochs=1, **options))
    command(config(pictures, tmp_path / "parts", epochs=2, **options))
    whole, parts = (Folder(tmp_path / name / "mynn" / "mynn" / "seed0") for name in ("whole", "parts"))
    np.testing.assert_array_equal(parts.arrays(2)["scores"], whole.arrays(2)["scores"])
    best = whole.arrays(max(whole.lines(), key=lambda line: line["test_accuracy"])["epoch"])["scores"]
    variables = from_torch("mynn", whole.path / "weights.safetensors")
    test = load(f"folder:{pictures}", size=SIZE).test
    scores = create("mynn", 2).apply(variables, np.asarray(test.images, np.float32) / 255)
    np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_another_configuration_is_refused_and_the_same_goes_on(pictures, tmp_path):
    first = config(pictures, tmp_path, epochs=1, augment=True)
    command(first)
    command(dataclasses.replace(first, epochs=2))
    whole = dataclasses.replace(first, epochs=2, out=tmp_path / "whole")
    command(whole)
    halves, at_once = (Folder(study.folder_of(each, "mynn")).arrays(2)["scores"] for each in (first, whole))
    np.testing.assert_array_equal(halves, at_once)
    with pytest.raises(terminal.UserError, match=r"another configuration \(augment: true → false\)"):
        command(dataclasses.replace(first, epochs=3, augment=False))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model", "vgg"], "there is no model 'vgg'; did you mean 'vgg16'?"),
        (["--data", "mnist"], "Mynn takes images whose height and width are multiples of 8, not 28×28"),
        (["--size", "0"], "--size must be 1 or more, not 0"),
        (["--lr", "-1"], "--lr must be a positive number, not -1.0"),
        (["--model", "all", "--pretrained", "a.pth"], "--pretrained holds the weights of one network"),
        (["--size", "16", "--pretrained", "none.pth"], "none.pth"),
        (["--data", "folder:/nowhere"], "/nowhere"),
        (["--optimizer", "lion"], "optimizer"),
        (["--averaging", "1"], "averaging is the share of an average that a step keeps: in [0, 1), not 1.0"),
        (["--stream"], "--stream is for --data folder:PATH, tfds:NAME, recordio:DIRECTORY or tar:PATH"),
        (["--devices", "99", "--size", "16"], "99 devices were asked for"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_sentence_and_exit_code_2(argv, words, capsys, tmp_path):
    code, error = said(capsys, [*argv, "--out", tmp_path])
    assert code == 2
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_drawn_faces_are_said_to_be_drawings(tmp_path, capsys):
    command(Config(size=16, epochs=1, steps_per_epoch=1, out=tmp_path))
    first, *_, ended, _, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("note: These faces are drawings made by this program, not photographs")
    assert ended.startswith("mynn on drawn faces, not photographs: test accuracy ")


def test_the_epoch_that_compiles_is_not_timed_where_there_are_others(run_once):
    lines = Folder(run_once).lines()
    found = contender("mynn", Folder(run_once))
    assert found.seconds_per_epoch == np.median([line["seconds"] for line in lines[1:]])
    assert found.images_per_second == np.median([line["images_per_second"] for line in lines[1:]])
