"""The README's code runs as it stands, and its two commands are the ones that are checked."""

import dataclasses
import re
from pathlib import Path

import jaxnets

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_six_lines(monkeypatch, capsys):
    """On a slice of MNIST, so that it takes a moment."""
    mnist = jaxnets.load("mnist")
    small = {
        name: jaxnets.Split(split.images[:count], split.labels[:count])
        for name, split, count in (("train", mnist.train, 256), ("test", mnist.test, 100))
    }
    monkeypatch.setattr(jaxnets, "load", lambda name: dataclasses.replace(mnist, name=name, **small))
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\{'loss': \d+\.\d+, 'accuracy': 0\.\d+\} 0\.\d+\n", printed), printed
    assert len([line for line in code.splitlines() if line]) == 6


def test_exactly_two_commands_open_the_readme():
    commands = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert len(commands) == 2 and "-m experiments.arcloss" in commands[0] and "-m pytest" in commands[1]
    assert README.index("![") < README.index("```bash"), "a figure comes first"
