"""The README's code runs as it stands, and its two commands are the ones that are checked."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np

import jaxnets

README = (Path(__file__).parents[1] / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_six_lines(monkeypatch, capsys):
    """On a slice of MNIST, so that it takes a moment."""
    mnist = jaxnets.load("mnist")
    small = {
        name: jaxnets.Split(split.images[:count], split.labels[:count])
        for name, split, count in (("train", mnist.train, 256), ("test", mnist.test, 100))
    }
    monkeypatch.setattr(jaxnets, "load", lambda name: dataclasses.replace(mnist, name=name, **small))
    code, _ = CODE
    exec(code, {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\{'loss': \d+\.\d+, 'accuracy': 0\.\d+\} 0\.\d+\n", printed), printed
    assert len([line for line in code.splitlines() if line]) == 6


def test_classes_on_eight_devices(capsys):
    names = {}
    exec(CODE[1], names)
    capsys.readouterr()
    state, batch, weights = names["state"], names["batch"], names["state"].params["head"]["class_weights"]
    assert len(weights.addressable_shards) == 8 and weights.addressable_shards[0].data.shape == (125, 32)

    @jax.jit
    def mean_loss(params, images):
        variables = {"params": params["net"], "batch_stats": state.batch_stats}
        pixels = images.astype(np.float32) / 255
        embeddings, _ = state.model.apply(variables, pixels, train=True, mutable=["batch_stats"])
        how = {"margin": jaxnets.ArcFace(0.5), "scale": 64.0}
        return jaxnets.margin_softmax_loss(embeddings, params["head"]["class_weights"], batch.labels, **how).mean()

    on_one_device = jax.tree.map(np.asarray, state.params)
    np.testing.assert_allclose(names["metrics"]["loss"], mean_loss(on_one_device, batch.images), rtol=1e-4)


def test_exactly_two_commands_open_the_readme():
    commands = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert len(commands) == 2 and "-m experiments.arcloss" in commands[0] and "-m pytest" in commands[1]
    assert README.index("![") < README.index("```bash"), "a figure comes first"
