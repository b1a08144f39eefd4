"""The README's code runs as it stands, and its two commands are the ones that are checked."""

import dataclasses
import math
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
    assert names["devices"] == 8

    def mean_loss(x, w):
        return jaxnets.margin_softmax_loss(x, w, names["y"], margin=jaxnets.ArcFace(0.5), scale=64.0).mean()

    loss, (dx, dw) = jax.value_and_grad(mean_loss, (0, 1))(names["x"], names["w"][:1000])
    rounding = 4 * 64 * np.finfo(np.float32).eps * math.sqrt(32)  # of s times a cosine
    np.testing.assert_allclose(names["loss"], loss, rtol=1e-6, atol=rounding)
    assert np.linalg.norm(names["dx"] - dx) <= rounding * np.linalg.norm(dx)
    assert np.linalg.norm(names["dw"][:1000] - dw) <= rounding * np.linalg.norm(dw)


def test_exactly_two_commands_open_the_readme():
    commands = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert len(commands) == 2 and "-m experiments.arcloss" in commands[0] and "-m pytest" in commands[1]
    assert README.index("![") < README.index("```bash"), "a figure comes first"
