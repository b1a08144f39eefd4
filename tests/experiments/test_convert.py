"""The command that writes weights under PyTorch's names: of files, of runs, and what it refuses."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import convert, predict
from experiments.convert import Config
from experiments.run import terminal
from experiments.run.folder import Folder
from experiments.run.progress import Progress
from experiments.trained import network
from jaxnets import ArcFace, MarginHead, create, create_train_state, parallel, sgd
from jaxnets.epochs import Totals
from jaxnets.torch_weights import from_torch, read, save, to_torch

HAS_TORCH = importlib.util.find_spec("torch") is not None


def state_of(seed, averaging=None):
    head = MarginHead(7, ArcFace(0.3), 3.0)
    images = np.zeros((1, 28, 28, 1), np.uint8)
    return create_train_state(
        jax.random.key(seed), create("v0"), head, images, sgd(0.01, 0.9), sgd(0.5), averaging=averaging
    )


def same(variables, state):
    wanted = {"params": state.params["net"], "batch_stats": state.batch_stats, "head": state.params["head"]}
    jax.tree.map(np.testing.assert_array_equal, variables, jax.tree.map(np.asarray, wanted))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder whose best epoch was its first of two, with the two states."""
    path = tmp_path_factory.mktemp("runs") / "seed0"
    folder = Folder(path)
    folder.claim({"variant": "v0", "image_shape": [28, 28, 1], "classes": [*"0123456"]}, "a command", fresh=False)
    states = [state_of(0), state_of(1).replace(step=np.int32(9))]
    progress = Progress(folder, parallel.data_mesh(1), states[0], Totals.zero(1))
    for epoch, progress.state in enumerate(states, 1):
        progress.record({"epoch": epoch, "test_accuracy": 1 / epoch}, {"embeddings": np.zeros((1, 2))})
    return path, states


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory):
    """The best state of the run, as a file."""
    path = tmp_path_factory.mktemp("weights") / "v0.safetensors"
    convert.command(Config(run[0], path))
    return path


def said(capsys, argv):
    """The exit code and what was said of a command line."""
    with pytest.raises(SystemExit) as stop:
        terminal.main(lambda: convert.command(terminal.parse(Config, "convert", [str(word) for word in argv])))
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("which", "index", "steps"), [("best", 0, 0), ("last", 1, 9)])
def test_a_runs_states_with_their_heads(which, index, steps, run, tmp_path, capsys):
    folder, states = run
    out = tmp_path / "v0.safetensors"
    convert.command(Config(folder, out, which=which))
    same(from_torch("v0", out), states[index])
    assert read(out)["head.weight"].shape == (2, 7)
    first, fits, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"{out}: v0 from the {which} state of {folder}, after {steps} steps; 33 arrays, 405,623 parameters, "
        f"{out.stat().st_size:,} bytes"
    )
    wanted = "they fit Net(BACKBONES['v0'], channels=1, outputs=2) of experiments/torch_peer.py"
    assert fits == wanted and "head.weight" in second


def test_a_run_of_two_devices_on_a_machine_with_one(tmp_path):
    mesh = parallel.data_mesh(2)
    state = parallel.replicate(state_of(2), mesh)
    folder = Folder(tmp_path / "seed0")
    folder.claim({"variant": "v0", "image_shape": [28, 28, 1], "classes": [*"0123456"]}, "a command", fresh=False)
    Progress(folder, mesh, state, Totals.zero(1)).save()
    out = tmp_path / "v0.safetensors"
    command = [sys.executable, "-m", "experiments.convert", folder.path, out, "--which", "last"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    same(from_torch("v0", out), state)


def test_between_the_kinds_of_file(weights, run, tmp_path, capsys):
    _, states = run
    again = tmp_path / "again.safetensors"
    convert.command(Config(weights, again, model="v0"))
    assert again.read_bytes() == weights.read_bytes()
    assert capsys.readouterr().out.startswith(f"{again}: v0 from {weights}; 33 arrays, 405,623 parameters, ")
    if HAS_TORCH:
        convert.command(Config(weights, tmp_path / "v0.pth", model="v0"))
        same(from_torch("v0", tmp_path / "v0.pth"), states[0])


def test_the_module_that_is_named_takes_the_weights():
    pytest.importorskip("torch")
    import torch

    from experiments import torch_peer
    from jaxnets.models.conv_stack import BACKBONES, MYNN_DEEP

    for name, shape in (
        ("v0", (28, 28, 1)),
        ("v1_1_3", (28, 28, 3)),
        ("mynn_deep", (8, 8, 3)),
        ("mynn", (224, 224, 3)),
    ):
        variables = jax.eval_shape(create(name, 3).init, jax.random.key(0), np.zeros((1, *shape), np.float32))
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
        module, _ = network.pytorch_class(name, variables).split(" of ")
        names = {"Net": torch_peer.Net, "Mynn": torch_peer.Mynn, "BACKBONES": BACKBONES, "MYNN_DEEP": MYNN_DEEP}
        tensors = {key: torch.from_numpy(array) for key, array in to_torch(name, variables).items()}
        eval(module, names).load_state_dict(tensors, strict=True)


def test_what_a_run_wrote_loads_into_the_studys_network(weights):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    from experiments.torch_peer import ArcHead, Net
    from jaxnets.models.conv_stack import BACKBONES

    tensors = safetensors.torch.load_file(weights)
    head = ArcHead(ArcFace(0.3), 3.0, classes=7)
    head.load_state_dict({"weight": tensors.pop("head.weight")})
    net = Net(BACKBONES["v0"]).eval()
    net.load_state_dict(tensors, strict=True)
    images = torch.rand(4, 1, 28, 28)
    variables = from_torch("v0", weights)
    ours = jax.jit(create("v0").apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    theirs = net(images).detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    np.testing.assert_array_equal(head.weight.detach().numpy().T, variables["head"]["class_weights"])


def test_bad_input_gets_one_sentence_and_exit_code_2(weights, run, tmp_path, capsys):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "evil.pth").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text(
        json.dumps({"config": {"variant": "v0", "image_shape": [28, 28, 1], "classes": [*"0123456"]}})
    )
    (tmp_path / "nameless").mkdir()
    (tmp_path / "nameless" / "config.json").write_text(json.dumps({"config": {}}))
    out = tmp_path / "out.safetensors"
    for argv, words in (
        ([weights, out], f"--model must say of which network {weights} holds the weights"),
        ([weights, out, "--model", "v00"], "no network 'v00'; did you mean 'v0'?"),
        ([weights, out, "--model", "v2"], "does not fit v2: missing: hidden_layer.1.0.weight [32, 32, 5, 5]"),
        ([weights, tmp_path / "out.npz", "--model", "v0"], "out.npz ends in neither .safetensors nor .pth"),
        ([tmp_path / "text.pth", out, "--model", "v0"], "text.pth cannot be read as PyTorch's weights"),
        (
            [tmp_path / "evil.pth", out, "--model", "v0"],
            "evil.pth cannot be read as PyTorch's weights",
        ),
        ([tmp_path / "none.pth", out, "--model", "v0"], "none.pth: No such file or directory"),
        ([tmp_path, out], f"{tmp_path} is no run's folder: it has no config.json"),
        ([tmp_path / "begun", out], "begun has no best checkpoint yet: the run did not come so far"),
        ([tmp_path / "nameless", out], "config.json is damaged (its variant is no network's name)"),
        ([tmp_path / "begun", out, "--model", "v1"], "begun is a run of v0, not of v1"),
        ([weights, out, "--model", "v0", "--which", "worst"], "--which is best or last, not 'worst'"),
        ([weights, tmp_path / "text.pth" / "out.safetensors", "--model", "v0"], "cannot read or write"),
        ([weights, out, "--model", "v0", "--key", "ema"], "holds no state dict 'ema'"),
        ([run[0], out, "--key", "ema"], f"--key is for files: {run[0]} is a run's folder"),
        ([weights], "OUT"),
    ):
        code, error = said(capsys, argv)
        assert code == 2 and error.startswith("error: ") and words in error and error.count("\n") == 1, words
    assert not out.exists()


def test_a_damaged_checkpoint_is_refused(run, tmp_path, capsys):
    """By convert and predict, in the checkpoint's own sentence."""
    folder = tmp_path / "damaged\nrun"
    shutil.copytree(run[0], folder)
    for file in folder.glob("checkpoints/*/*/default/d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    picture, out = tmp_path / "digit.png", tmp_path / "out.safetensors"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(picture)
    for command, config in (
        (convert.command, Config(folder, out)),
        (convert.command, Config(folder, out, which="last")),
        (predict.command, predict.Config(folder, (picture,))),
    ):
        with pytest.raises(SystemExit) as stop:
            terminal.main(lambda command=command, config=config: command(config))
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        assert re.match(
            r"error: checkpoint \d in .*/damaged\\nrun/checkpoints/\w+ is damaged: its file default/d/", error
        )
    assert not out.exists()


def test_one_of_several_state_dicts(weights, run, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    ours = {name: torch.from_numpy(array) for name, array in read(weights).items()}
    zeros = {name: torch.zeros_like(array) for name, array in ours.items()}
    source, out = tmp_path / "both.pth", tmp_path / "out.safetensors"
    torch.save({"model": zeros, "model_ema": ours, "nested": {"ema": {"shadow": ours}}}, source)
    code, error = said(capsys, [source, out, "--model", "v0"])
    assert code == 2 and "holds several state dicts (model, model_ema): choose one with key=… (--key …)" in error
    for key in ("model_ema", "nested.ema.shadow"):
        convert.command(Config(source, out, model="v0", key=key))
        same(from_torch("v0", out), run[1][0])


def test_a_wrong_model_is_a_short_sentence(weights, tmp_path, capsys):
    code, error = said(capsys, [weights, tmp_path / "out.safetensors", "--model", "resnet50"])
    assert code == 2 and len(error) < 1000
    assert "does not fit resnet50: missing: bn1.bias [64], " in error and " more; not expected: " in error


def test_a_network_trained_in_python_is_saved_with_its_head(tmp_path, capsys):
    for averaging in (None, 0.9):
        state = state_of(5, averaging)
        save(tmp_path / "net.safetensors", "v0", state)
        params, batch_stats = state.for_inference()
        found = from_torch("v0", tmp_path / "net.safetensors")
        wanted = {"params": params["net"], "batch_stats": batch_stats, "head": params["head"]}
        jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, wanted))
    convert.command(Config(tmp_path / "net.safetensors", tmp_path / "again.safetensors", model="v0"))
    assert "head.weight" in capsys.readouterr().out


def test_pth_without_pytorch(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stop:
        terminal.main(lambda: convert.command(Config(weights, tmp_path / "out.pth", model="v0")))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "out.pth can only be written with PyTorch" in error and error.count("\n") == 1


def test_networks_without_a_head_say_nothing_of_one(tmp_path, capsys):
    variables = jax.eval_shape(lambda: create("mynn").init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    save(tmp_path / "mynn.safetensors", "mynn", variables)
    convert.command(Config(tmp_path / "mynn.safetensors", tmp_path / "again.safetensors", model="mynn"))
    assert capsys.readouterr().out.splitlines()[1:] == ["they fit Mynn(outputs=2) of experiments/torch_peer.py"]


def test_help_comes_without_jax():
    code = (
        "import sys; from experiments import convert\nfrom experiments.run import terminal\n"
        "try: terminal.parse(convert.Config, 'convert', ['--help'])\n"
        "finally: print({'jax', 'flax', 'numpy', 'torch'} & set(sys.modules))"
    )
    helped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    assert "a .pth or .safetensors file, or a run's folder" in helped.stdout and helped.stdout.endswith("set()\n")
