"""Sets of pairs verified by a small network, against insightface's evaluation written again in NumPy."""

import io
import pickle
import re

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import verify
from experiments.run import terminal
from experiments.trained import network, predictions
from jaxnets import create
from jaxnets.torch_weights import save

SIZE, PAIRS, FOLDS = 16, 243, 10


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pixels():
    """Of each pair two images; those of one identity are a picture and a noisy copy, every second one mirrored."""
    rng = np.random.default_rng(0)
    first = np.kron(rng.integers(0, 2, (PAIRS, 4, 4)) * 155, np.ones((4, 4))) + rng.integers(0, 100, (PAIRS, 1, 1))
    second = np.clip(first + np.kron(rng.normal(0, 50, (PAIRS, 4, 4)), np.ones((4, 4))), 0, 255)
    second[::2] = second[::2, :, ::-1]
    is_same = rng.random(PAIRS) < 0.5
    second[~is_same] = first[np.roll(np.flatnonzero(~is_same), 1)]  # pictures are in several pairs, as in LFW
    return np.stack([first, second], axis=1).astype(np.uint8), is_same


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory, pixels):
    """Weights, and a set as insightface's `lfw.bin`: protocol 2, a list of bytes and one of truths."""
    folder = tmp_path_factory.mktemp("verifying")
    images, is_same = pixels
    net, flat = create("mynn_relu", 5), images.reshape(-1, SIZE, SIZE, 1).astype(np.float32) / 255
    variables = jax.jit(net.init)(jax.random.key(0), flat[:1])
    # So that embeddings of an untrained network point in all directions, and rounding decides about no pair.
    variables["params"]["model1_8"]["bias"] -= jax.jit(net.apply)(variables, flat).mean(axis=0)
    save(folder / "weights.safetensors", "mynn_relu", variables)
    pictures = [png(image) for image in images.reshape(-1, SIZE, SIZE)]
    (folder / "pairs.bin").write_bytes(pickle.dumps((pictures, is_same.tolist()), 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(predictions, "BATCH", 64)
        yield folder


def run(capsys, *argv):
    """The exit code, the output and the complaints of a command line."""
    code = 0
    argv = ["weights.safetensors", *map(str, argv), "--model", "mynn_relu"]
    try:
        terminal.main(lambda: verify.command(terminal.parse(verify.Config, "prog", argv)))
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def by_insightface(images, is_same, mirrored):
    """Squared distances of normalised sums, and the folds' accuracies, each by the best of the others' distances."""
    variables = network.load(verify.Path("weights.safetensors"), "mynn_relu").variables
    apply = jax.jit(create("mynn_relu", 5).apply)
    flat = images.reshape(-1, SIZE, SIZE, 1).astype(np.float32) / 255
    outputs = np.asarray(apply(variables, flat), np.float64)
    if mirrored:
        outputs += np.asarray(apply(variables, flat[:, :, ::-1]), np.float64)
    outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
    distances = np.square(outputs[::2] - outputs[1::2]).sum(axis=1)
    accuracies = []
    for test in np.array_split(np.arange(PAIRS), FOLDS):  # as KFold without shuffling
        train = np.setdiff1d(np.arange(PAIRS), test)
        levels = np.sort(distances[train])
        thresholds = (levels[1:] + levels[:-1]) / 2
        right = [((distances[train] < threshold) == is_same[train]).mean() for threshold in thresholds]
        accuracies.append(((distances[test] < thresholds[np.argmax(right)]) == is_same[test]).mean())
    return distances, accuracies


def told(out):
    numbers = {name: [float(x) for x in re.findall(r"[\d.]+", rest)] for name, rest in _lines(out)}
    return numbers["accuracy"][:2], numbers["TAR at FAR 1e-1"], numbers["equal error rate"][0]


def _lines(out):
    return re.findall(r"^  (\S.*?)  +(\S.*)$", out, re.MULTILINE)


@pytest.mark.parametrize("mirrored", [True, False])
def test_the_accuracy_is_insightfaces(mirrored, capsys, pixels):
    distances, accuracies = by_insightface(*pixels, mirrored)
    code, out, complaint = run(capsys, "pairs.bin", *(() if mirrored else ("--no-mirrored",)))
    assert code == 0, complaint
    is_same = pixels[1]
    count = is_same.sum()
    words = f"pairs.bin: {count} genuine pairs and {PAIRS - count} of impostors, by mynn_relu from weights.safetensors"
    assert out.startswith(words + "\n")
    (mean, deviation), (tar, cosine), error = told(out)
    assert mean == pytest.approx(100 * np.mean(accuracies), abs=0.006)
    assert deviation == pytest.approx(100 * np.std(accuracies), abs=0.006)
    assert 55 < mean < 99
    # At most a tenth of the impostors are nearer than this distance, and no more could be accepted.
    impostors = np.sort(distances[~is_same])
    limit = impostors[len(impostors) // 10]
    assert tar == pytest.approx(100 * (distances[is_same] < limit).mean(), abs=0.006)
    assert 2 - 2 * cosine < limit + 1e-4
    wrong = [[(distances[is_same] >= t).mean(), (distances[~is_same] < t).mean()] for t in np.unique(distances)]
    assert error == pytest.approx(100 * min(map(max, wrong)), abs=1)
    notes = dict(_lines(out))
    assert notes["TAR at FAR 1e-2"].startswith("–") and "and 10 are needed" in notes["TAR at FAR 1e-2"]


def test_a_mirror_image_is_the_same_picture_unless_told_otherwise(tmp_path, capsys, pixels):
    """Pairs of one identity are mirror images of each other; all others differ."""
    images = pixels[0][:60, 0]
    is_same = np.arange(60) % 2 == 0
    others = np.where(is_same[:, None, None], images[:, :, ::-1], np.roll(images, 1, axis=0))
    pictures = [png(image) for pair in zip(images, others, strict=True) for image in pair]
    for name, same in (("mirror.bin", is_same.tolist()), ("ones.bin", is_same.astype(int).tolist())):
        (tmp_path / name).write_bytes(pickle.dumps((pictures, same), 2))
    code, out, _ = run(capsys, tmp_path / "mirror.bin", tmp_path / "ones.bin", "--folds", 5)
    assert code == 0 and out.count("100.00 ± 0.00 %  mean ± standard deviation over 5 folds") == 2
    code, out, _ = run(capsys, tmp_path / "mirror.bin", "--no-mirrored")
    assert code == 0 and told(out)[0][0] < 95


@pytest.mark.parametrize(
    ("same", "picture", "argv", "words"),
    [
        ([True, False], b"", (), r"set\.bin has 2 pairs, too few for 10 folds: --folds takes fewer"),
        ([True, True], b"", ("--folds", 2), r"set\.bin has pairs of one identity alone: verification needs both kinds"),
        ([0, 0], b"", ("--folds", 2), r"set\.bin has pairs of two identities alone"),
        ([True, False], b"nothing", ("--folds", 2), r"set\.bin, picture 2 is no picture in any known format"),
        ([True, False], None, ("--folds", 2), r"set\.bin has 3 pictures and 2 pairs"),
        ([True, False], b"", ("--folds", 1), r"--folds must be 2 or more, not 1"),
        ([True, False], b"", ("missing.bin",), r"missing\.bin cannot be read \(No such file or directory\)"),
    ],
)
def test_what_cannot_be_verified_is_refused_in_a_sentence(same, picture, argv, words, tmp_path, capsys, pixels):
    pictures = [png(image) for image in pixels[0][:2].reshape(-1, SIZE, SIZE)]
    pictures[2:3] = [] if picture is None else [picture or pictures[2]]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((pictures, same), 2))
    argv = argv if argv == ("missing.bin",) else (tmp_path / "set.bin", *argv)
    code, out, complaint = run(capsys, *argv)
    assert code == 2 and re.search(words, complaint) and complaint.count("\n") == 1 and not out


def test_a_set_must_be_named(capsys):
    code, _, complaint = run(capsys)
    assert code == 2 and "name the sets of pairs, such as lfw.bin" in complaint
