"""The command in this process: what it says of pictures of a real run, and what it refuses."""

import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.run import terminal
from experiments.trained import pictures, predictions
from experiments.trained.network import expects_imagenet
from jaxnets import checkpoint, create, torch_weights
from jaxnets.losses import cosines


def table(out):
    names, *rows = (line.split("\t") for line in out.splitlines())
    return names, rows


def test_predictions_are_those_of_training(v0_run, images, tmp_path, predict_says):
    """Against the embeddings and class weights that the run itself wrote down."""
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image[:, :, 0]).save(path)
    code, out, _ = predict_says(v0_run, *paths, "--top", 3)
    names, rows = table(out)
    assert code == 0 and names == ["image", "rank", "class", "cosine", "angle"]
    with np.load(v0_run / "epochs" / "0001.npz") as kept:
        recorded = np.asarray(cosines(kept["embeddings"], kept["class_weights"]))
    wanted = [(path, i, rank) for i, path in enumerate(paths) for rank in (1, 2, 3)]
    assert len(rows) == len(wanted) == 36
    for (path, i, rank), row in zip(wanted, rows, strict=True):
        assert row[:2] == [str(path), str(rank)]
        cosine = np.sort(recorded[i])[-rank]
        assert recorded[i][int(row[2])] == pytest.approx(cosine, abs=1e-5)
        assert float(row[3]) == pytest.approx(cosine, abs=1e-4)
        assert float(row[4]) == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.1)


def test_batches_of_one_size_give_what_one_batch_gives(v0_run, images, tmp_path, predict_says, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image[:, :, 0]).save(path)
    _, whole, _ = predict_says(v0_run, *paths)
    monkeypatch.setattr(predictions, "BATCH", 4)
    _, in_batches, _ = predict_says(v0_run, *paths)
    (_, whole), (_, in_batches) = table(whole), table(in_batches)
    assert [row[:3] for row in whole] == [row[:3] for row in in_batches]
    np.testing.assert_allclose(*([float(row[3]) for row in rows] for rows in (whole, in_batches)), atol=2e-4)


def test_dark_on_light_is_said_and_turned_only_when_asked(v0_run, digit, tmp_path, predict_says):
    Image.fromarray(digit).save(tmp_path / "light.png")
    Image.fromarray(255 - digit).save(tmp_path / "dark.png")
    code, as_it_is, err = predict_says(v0_run, tmp_path / "light.png")
    assert code == 0 and "dark on light" not in err
    code, out, err = predict_says(v0_run, tmp_path / "dark.png", tmp_path / "light.png", tmp_path / "dark.png")
    assert code == 0 and err.startswith(f"note: {tmp_path / 'dark.png'} and 1 more look dark on light, ")
    assert err.splitlines()[0].endswith("try with --invert")
    assert table(out)[1][0][2:] != table(as_it_is)[1][0][2:]
    code, turned, err = predict_says(v0_run, tmp_path / "dark.png", "--invert")
    assert code == 0 and "dark on light" not in err
    assert [row[1:] for row in table(turned)[1]] == [row[1:] for row in table(as_it_is)[1]]
    assert "try without --invert\n" in predict_says(v0_run, tmp_path / "light.png", "--invert")[2]


def test_pale_pictures_are_said_and_stretched_only_when_asked(v0_run, digit, tmp_path, predict_says):
    """One of which two hundredths are brighter than the rest keeps its order of shades, and gets the whole range."""
    Image.fromarray(digit).save(tmp_path / "full.png")
    pale = np.uint8(np.rint(100 + digit / 255 * 51))
    Image.fromarray(pale).save(tmp_path / "pale.png")
    _, of_full, err = predict_says(v0_run, tmp_path / "full.png")
    assert "range from black to white" not in err
    code, as_it_is, err = predict_says(v0_run, tmp_path / "pale.png")
    assert code == 0 and f"note: {tmp_path / 'pale.png'} uses less than half of the range from black to white" in err
    code, stretched, err = predict_says(v0_run, tmp_path / "pale.png", "--stretch")
    assert code == 0 and "range from black to white" not in err and stretched != as_it_is
    cosines = [float(table(out)[1][0][3]) for out in (of_full, stretched)]
    assert cosines[0] == pytest.approx(cosines[1], abs=0.01)
    np.testing.assert_allclose(pictures.stretched(pale[None, :, :, None])[0, :, :, 0], digit, atol=4)
    grey = np.full((1, 8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(pictures.stretched(grey), grey)


def test_two_near_classes_are_called_uncertain():
    """Cosines of angles 40° and 44° are near, 40° and 46° are not; for classifiers, probabilities below 0.6."""
    cosines = np.cos(np.radians([[40.0, 44.0, 90.0], [40.0, 46.0, 47.0]]))
    logits = np.log([[0.59, 0.41, 0.0001], [0.61, 0.38, 0.01]])
    probabilities = np.exp(logits)
    assert predictions._uncertain(cosines, probabilities, True).tolist() == [True, False]
    assert predictions._uncertain(logits, probabilities, False).tolist() == [True, False]
    assert predictions._uncertain(cosines[:, :1], probabilities[:, :1], True).tolist() == [False, False]


def test_weights_that_are_not_finite_are_refused(v0_run, digit, tmp_path, predict_says):
    Image.fromarray(digit).save(tmp_path / "7.png")
    _, tree = checkpoint.restore(v0_run / "checkpoints" / "best")
    net = tree["params"]["net"]
    first = next(iter(net))
    net[first] = jax.tree.map(
        lambda leaf: np.where(np.arange(leaf.size) == 3, np.nan, leaf.ravel()).reshape(leaf.shape), net[first]
    )
    variables = {"params": net, "batch_stats": tree["batch_stats"], "head": tree["params"]["head"]}
    torch_weights.save(tmp_path / "nan.safetensors", "v0", variables)
    code, out, err = predict_says(tmp_path / "nan.safetensors", tmp_path / "7.png", "--model", "v0")
    assert code == 2 and not out and err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path / 'nan.safetensors'} holds numbers that are not finite, in ")


def test_imagenets_mean_is_for_what_tells_a_thousand_classes():
    for name, outputs, channels, inputs, expected in (
        ("resnet18", 1000, 3, "auto", True),
        ("resnet18", 2, 3, "auto", False),
        ("resnet18", 1000, 1, "auto", False),
        ("mynn", 1000, 3, "auto", False),
        ("resnet18", 2, 3, "imagenet", True),
        ("resnet18", 1000, 3, "plain", False),
    ):
        images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
        variables = jax.eval_shape(create(name, outputs).init, jax.random.key(0), images)
        assert expects_imagenet(name, variables, inputs) == expected, (name, outputs, channels, inputs)
    with pytest.raises(terminal.UserError, match="--inputs imagenet is for images of 3 channels, not 1"):
        expects_imagenet(
            "mynn", jax.eval_shape(create("mynn").init, jax.random.key(0), jnp.zeros((1, 16, 16, 1))), "imagenet"
        )


def test_a_person_gets_a_table(v0_run, digit, tmp_path, predict_says, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    Image.fromarray(digit).save(tmp_path / "7.png")
    code, out, _ = predict_says(v0_run, tmp_path / "7.png")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert code == 0 and "\t" not in out
    assert "".join(lines).startswith(f"v0 from the best state of {v0_run}, after 2 steps")
    assert sum(line.rstrip().endswith("°") for line in lines) == 2


def spoilt(run, tmp_path, content):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    return [tmp_path / "run"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (lambda run, tmp: ["/nowhere/seed0"], "error: /nowhere/seed0: there is no such run's folder or weights file\n"),
        (lambda run, tmp: [run.parent], "seed0's parent"),
        (lambda run, tmp: spoilt(run, tmp, "{"), "config.json is damaged ("),
        (
            lambda run, tmp: spoilt(run, tmp, '{"config": {"epochs": 3}}'),
            "config.json is damaged (its variant is no network's name)",
        ),
        (lambda run, tmp: [run, "--model", "v1"], "is a run of v0, not of v1: leave --model to weights files"),
        (lambda run, tmp: [run, "--top", "0"], "error: --top must be 1 or more, not 0\n"),
        (lambda run, tmp: [tmp / "7.png"], "--model must say of which network"),
        (lambda run, tmp: [tmp / "7.png", "--model", "v0"], "7.png cannot be read as PyTorch's weights"),
        (lambda run, tmp: [tmp / "7.png", "--model", "v00"], "there is no network 'v00'; did you mean 'v0'?"),
    ],
    ids=["nowhere", "parent", "broken", "other", "model", "top", "no_model", "no_weights", "unknown"],
)
def test_what_is_no_trained_network_is_refused_in_one_sentence(argv, words, v0_run, digit, tmp_path, predict_says):
    Image.fromarray(digit).save(tmp_path / "7.png")
    first, *rest = argv(v0_run, tmp_path)
    code, out, err = predict_says(first, tmp_path / "7.png", *rest)
    words = f"error: {v0_run.parent} is no run's folder" if words == "seed0's parent" else words
    assert code == 2 and not out and err.count("\n") == 1 and words in err
    assert predict_says(v0_run)[0] == 2  # and no picture at all


def test_a_run_without_a_checkpoint_and_one_without_its_data(v0_run, digit, tmp_path, predict_says):
    Image.fromarray(digit).save(tmp_path / "7.png")
    _, out, _ = predict_says(v0_run, tmp_path / "7.png")
    copy = tmp_path / "copy"
    shutil.copytree(v0_run, copy)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(re.sub(r'"idx:[^"]*"', '"idx:/nowhere"', text))
    assert predict_says(copy, tmp_path / "7.png")[1] == out
    shutil.rmtree(copy / "checkpoints" / "best")
    assert predict_says(copy, tmp_path / "7.png")[1] == out  # the last state is the same one here
    shutil.rmtree(copy / "checkpoints" / "last")
    code, _, err = predict_says(copy, tmp_path / "7.png")
    assert code == 2 and err == f"error: {copy} has no best or last checkpoint yet: the run did not come so far\n"


def test_a_weights_file_with_and_without_class_weights(v0_run, digit, tmp_path, predict_says):
    Image.fromarray(digit).save(tmp_path / "7.png")
    _, of_run, _ = predict_says(v0_run, tmp_path / "7.png")
    _, tree = checkpoint.restore(v0_run / "checkpoints" / "best")
    variables = {"params": tree["params"]["net"], "batch_stats": tree["batch_stats"]}
    torch_weights.save(tmp_path / "whole.safetensors", "v0", {**variables, "head": tree["params"]["head"]})
    torch_weights.save(tmp_path / "net.safetensors", "v0", variables)
    code, out, _ = predict_says(tmp_path / "whole.safetensors", tmp_path / "7.png", "--model", "v0")
    assert code == 0 and out == of_run
    code, out, err = predict_says(tmp_path / "net.safetensors", tmp_path / "7.png", "--model", "v0")
    assert code == 2 and not out
    assert err == (
        f"error: {tmp_path / 'net.safetensors'} holds no class weights (head.weight): v0 makes embeddings of images, "
        "and no scores without them; a run's folder has them\n"
    )


def test_a_classifier_gives_scores_and_probabilities(tmp_path, predict_says):
    """Its image size, 16×16 in three colours, follows from the weights."""
    model = create("mynn", 3)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "face.png")
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), abstract)
    torch_weights.save(tmp_path / "mynn.safetensors", "mynn", variables)
    code, out, err = predict_says(tmp_path / "mynn.safetensors", tmp_path / "face.png", "--model", "mynn", "--top", 9)
    names, rows = table(out)
    assert code == 0 and not err and names == ["image", "rank", "class", "score", "probability"]
    scores = np.asarray(model.apply(variables, picture[None].astype(np.float32) / np.float32(255)), np.float64)[0]
    order = np.argsort(-scores)
    assert [int(row[2]) for row in rows] == order.tolist()
    np.testing.assert_allclose([float(row[3]) for row in rows], scores[order], atol=1e-3)
    np.testing.assert_allclose(
        [float(row[4]) for row in rows], (np.exp(scores) / np.exp(scores).sum())[order], atol=1e-4
    )


def test_help_comes_without_jax():
    program = "import sys, experiments.{} as module, experiments.run.terminal as terminal\ntry:\n    terminal.parse("
    program += (
        "module.Config, 'x', ['--help'])\nfinally:\n    assert 'jax' not in sys.modules and 'flax' not in sys.modules"
    )
    for name in ("predict", "export"):
        done = subprocess.run([sys.executable, "-c", program.format(name)], capture_output=True, text=True)
        assert done.returncode == 0 and "RUN_OR_FILE" in done.stdout and not done.stderr
