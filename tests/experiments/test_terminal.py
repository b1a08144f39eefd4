"""What a person is told, and the exit code."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.arcloss.config import Config
from experiments.run.terminal import UserError, enough_memory, main, parse


@pytest.mark.parametrize(
    ("take", "amount"),
    [(lambda: jnp.zeros(2**45, jnp.uint8), "33,554,432 MiB"), (lambda: np.zeros(2**50), "8.00 PiB")],
    ids=["device", "host"],
)
def test_a_lack_of_memory_is_one_sentence(take, amount, capsys):
    with (
        pytest.raises(UserError, match=f"^out of memory: {amount} were asked for; give less$"),
        enough_memory("give less"),
    ):
        take()
    with pytest.raises(SystemExit) as stop:
        main(take)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: out of memory: {amount}") and error.count("\n") == 1


@pytest.mark.parametrize("code", [None, 143])
def test_a_signal_while_arguments_are_read_is_no_complaint_of_them(code, monkeypatch):
    monkeypatch.setattr("tyro.cli", lambda *of, **options: sys.exit(code))
    with pytest.raises(SystemExit) as stop:
        parse(Config, "python -m experiments.arcloss", [])
    assert stop.value.code == code


def test_another_fault_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="of our own"):
        main(lambda: (_ for _ in ()).throw(RuntimeError("of our own")))


def test_control_characters_and_line_ends_do_not_reach_the_terminal(capsys):
    def refuse():
        raise UserError("there is no file a\nb\x1b[31m.png")

    with pytest.raises(SystemExit):
        main(refuse)
    assert capsys.readouterr().err == "error: there is no file a\\nb\\x1b[31m.png\n"


@pytest.mark.parametrize("argument", ["--help", "--list"])
def test_a_reader_that_has_ended_is_no_fault(argument):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments.arcloss", argument]
    with open(writer, "wb") as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")
