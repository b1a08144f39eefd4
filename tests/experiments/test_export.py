"""The command in this process: files that give what the network gives, and what is refused."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from experiments import export
from experiments.run import terminal
from experiments.trained import exporting
from jaxnets import checkpoint, create, torch_weights
from jaxnets.export import Program, load_stablehlo
from jaxnets.losses import cosines

KINDS = pytest.mark.parametrize("kind", ["stablehlo", "onnx"])


def variables_of(name, shape, outputs=2):
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(create(name, outputs).init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(lambda leaf: rng.normal(0.05, 0.1, leaf.shape).astype(np.float32) ** 2, abstract)


@pytest.fixture(scope="module")
def variables():
    return variables_of("v0", (28, 28, 1))


def a_run(folder, variables, class_weights, which="best"):
    """A run's folder with as much in it as is needed of one."""
    folder.mkdir()
    classes = [f"class {i}" for i in range(len(class_weights))]
    config = {"variant": "v0", "image_shape": [28, 28, 1], "classes": classes}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    head = {"class_weights": jnp.asarray(class_weights)}
    state = {"params": {"net": variables["params"], "head": head}, "batch_stats": variables["batch_stats"]}
    checkpoint.save(folder / "checkpoints" / which, 7, jax.tree.map(jnp.asarray, state), keep=1)
    return folder


def said(capsys, *argv):
    """The exit code, the output and the complaints of a command line."""
    code = 0
    try:
        words = [str(word) for word in argv]
        terminal.main(lambda: export.command(terminal.parse(export.Config, "export", words)))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_file(path, images):
    if path.suffix == ".stablehlo":
        return np.asarray(load_stablehlo(path.read_bytes())(images))
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})[0]


def natively(model, variables, images):
    apply = jax.jit(functools.partial(model.apply, train=False))
    return np.asarray(apply(variables, images.astype(np.float32) / np.float32(255)))


@KINDS
@pytest.mark.parametrize(
    "shape", [(10, 2), pytest.param((10, 3, 2), marks=pytest.mark.slow)], ids=["one_direction", "subcentres"]
)
def test_a_run_becomes_a_file(kind, shape, variables, tmp_path, capsys):
    class_weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    folder, target = a_run(tmp_path / "run", variables, class_weights), tmp_path / "new" / f"v0.{kind}"
    images = np.random.default_rng(2).integers(0, 256, (3, 28, 28, 1), np.uint8)
    embeddings = natively(create("v0"), variables, images)
    for what, want in (("scores", np.asarray(cosines(embeddings, class_weights))), ("embeddings", embeddings)):
        code, out, err = said(capsys, folder, target, "--what", what)
        assert code == 0 and not err
        assert out.startswith(
            f"{target}: v0 from the best state of {folder}, after 7 steps; images, uint8 [N, 28, 28, 1]"
        )
        assert f"to {what}, float32 [N, {want.shape[1]}]; {target.stat().st_size:,} bytes; " in out
        np.testing.assert_allclose(run_file(target, images), want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@KINDS
def test_a_weights_file_becomes_a_file(kind, tmp_path, capsys):
    """Of a classifier on images of 16×16 in three colours, as its weights say."""
    variables = variables_of("mynn_relu", (16, 16, 3), 5)
    torch_weights.save(tmp_path / "weights.safetensors", "mynn_relu", variables)
    source, target = tmp_path / "weights.safetensors", tmp_path / f"file.{kind}"
    code, out, err = said(capsys, source, target, "--model", "mynn_relu")
    assert code == 0 and not err and "uint8 [N, 16, 16, 3]" in out and "float32 [N, 5]" in out
    images = np.random.default_rng(2).integers(0, 256, (1, 16, 16, 3), np.uint8)
    want = natively(create("mynn_relu", 5), variables, images)
    np.testing.assert_allclose(run_file(target, images), want, rtol=0, atol=1e-5 * np.abs(want).max())
    code, out, err = said(capsys, source, target, "--model", "mynn_relu", "--what", "embeddings")
    assert code == 0 and not err  # they may have been trained with a margin head, of which a file need not tell
    np.testing.assert_allclose(run_file(target, images), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_embeddings_need_no_class_weights_and_scores_do(variables, tmp_path, capsys):
    source, target = tmp_path / "weights.safetensors", tmp_path / "file.stablehlo"
    torch_weights.save(source, "v0", variables)
    assert said(capsys, source, target, "--model", "v0", "--what", "embeddings")[0] == 0
    target.unlink()
    code, out, err = said(capsys, source, target, "--model", "v0")
    assert code == 2 and not out and "holds no class weights (head.weight)" in err and not target.exists()


def test_what_would_be_wrong_is_not_written(variables, tmp_path, capsys, monkeypatch):
    folder = a_run(tmp_path / "run", variables, np.eye(2, dtype=np.float32), "last")
    wrong = lambda program: (b"", lambda images: np.array([[0.0, np.nan]]))  # noqa: E731
    monkeypatch.setattr(exporting, "_stablehlo", wrong)
    with pytest.raises(RuntimeError, match="differs from the network by nan: nothing is written"):
        said(capsys, folder, tmp_path / "file.stablehlo")
    assert not (tmp_path / "file.stablehlo").exists()


def test_outputs_that_are_not_finite_are_not_compared():
    program = Program(lambda weights, images: jnp.full((2, 1), jnp.inf), {}, (1, 1, 1), "scores")
    with pytest.raises(ValueError, match="the network's own outputs are not finite"):
        exporting.check(program, lambda images: np.ones((2, 1), np.float32), np.zeros((2, 1, 1, 1), np.uint8))


def test_weights_that_are_not_finite_are_not_exported(variables, tmp_path, capsys):
    bias = variables["params"]["fc_0"]["bias"] * np.array([1, np.nan], np.float32)
    broken = {**variables, "params": {**variables["params"], "fc_0": {**variables["params"]["fc_0"], "bias": bias}}}
    torch_weights.save(tmp_path / "weights.safetensors", "v0", broken)
    for target in (tmp_path / "file.onnx", tmp_path / "file.stablehlo"):
        argv = (tmp_path / "weights.safetensors", target, "--model", "v0", "--what", "embeddings")
        code, out, err = said(capsys, *argv)
        assert code == 2 and not out and not target.exists()
        assert "weights.safetensors holds numbers that are not finite, in 1 array of 32 (as params.fc_0.bias)" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["x", "out.pb"], "out.pb ends in neither .onnx nor .stablehlo, the two kinds of file that are written"),
        (["x", "out"], "out ends in neither .onnx nor .stablehlo"),
        (["x", "out.stablehlo", "--what", "logits"], "--what is scores or embeddings, not 'logits'"),
        (["x", "out.stablehlo"], "x: there is no such run's folder or weights file"),
        (["x"], "OUT"),
    ],
    ids=["suffix", "no_suffix", "what", "source", "missing"],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(argv, words, capsys):
    code, out, err = said(capsys, *argv)
    assert code == 2 and not out and err.startswith("error: ") and words in err and err.count("\n") == 1


def test_without_the_extra_onnx_says_what_to_install(variables, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    code, _, err = said(capsys, tmp_path, tmp_path / "file.onnx")
    assert code == 2 and err == "error: ONNX needs onnx and onnxruntime: pip install 'jaxnets[onnx]'\n"
