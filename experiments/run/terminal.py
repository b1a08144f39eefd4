"""The terminal: one sentence for each error, exit codes, and the command line."""

import contextlib
import inspect
import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from experiments.run.processes import LOST, Elsewhere, are_lost, is_launched, is_supervised, leave

LONGEST = 2000  # characters of a sentence that has to be escaped
BAD_INPUT = 2  # the exit code for errors that the user can correct


class UserError(Exception):
    """One sentence for the user: the fault, the place and the remedy."""


@contextlib.contextmanager
def as_user_error(kind: type[Exception]) -> Iterator[None]:
    """Turns an exception about the user's input into a UserError with the same words."""
    try:
        yield
    except kind as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turns a lack of memory, of a device or the host, into a UserError that ends with `remedy`.

    JAX's error is known by its words, as JAX is not imported here.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in words or "ut of memory" in words):
            raise
        asked = re.search(r"allocat\w* ([\d.]+ ?[KMGTPE]?i?B|\d+)", words)
        size = f": {_memory(asked[1])} were asked for" if asked else ""
        raise UserError(f"out of memory{size}; {remedy}") from error


def _memory(amount: str) -> str:
    return f"{int(amount) / 2**20:,.0f} MiB" if amount.isdigit() else amount


def counted(number: int, thing: str) -> str:
    """As in 1 epoch, 2 epochs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class Diverged(Exception):
    """The loss or the parameters of a run are no longer finite; its last good checkpoint is kept."""


class Interrupted(Exception):
    """A run was told to stop and has saved its state; the exit code is the shell's, 128 + the signal's number."""

    def __init__(self, sentence: str, signal_number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + signal_number


def parse(config: Any, prog: str, argv: list[str] | None = None, examples: Sequence[str] = ()) -> Any:
    """A frozen dataclass, or one of a union of them, from the command line.

    Args:
      config: the class.
      prog: the command's name.
      argv: its arguments; None for this process's.
      examples: arguments that --help shows after `prog`.

    Raises:
      UserError: for arguments that do not fit.
    """
    complaint = io.StringIO()
    shown = "\n".join(f"  {prog} {arguments}".rstrip() for arguments in examples)
    description = f"{inspect.getdoc(config)}\n\nexamples:\n{shown}" if examples else None
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                config, prog=prog, description=description, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as stop:
        if stop.code == BAD_INPUT:  # others are of a signal that came meanwhile
            raise UserError(_sentence(complaint.getvalue(), prog)) from None
        raise


def command_line(prog: str) -> str:
    """The line that started this process, as a person may copy it."""
    return shlex.join([*prog.split(), *sys.argv[1:]])


def _sentence(panel: str, prog: str) -> str:
    """The text of an error panel of the command-line parser, without its frame and its repetitions."""
    lines = [re.sub(r"[─│╭╮╰╯]+", " ", line).strip() for line in panel.splitlines()[1:]]
    body = " ".join(lines[: next((i for i, line in enumerate(lines) if not line and i), len(lines))])
    body = re.sub(r"\s+", " ", body).strip().rstrip(":.").removeprefix("Error ")
    return f"{body[0].lower()}{body[1:]}; see {prog} --help" if body else f"unusable arguments; see {prog} --help"


def main(command: Callable[[], None]) -> None:
    """Runs a command, and turns errors that the user can correct into one sentence and an exit code."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: leave(128 + number))
    try:
        with enough_memory("ask for less at once, or use a larger machine"):
            _flushed(command)
    except BrokenPipeError:  # who read this, as head does, has ended: there is nobody to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes the interpreter's last flush
        leave(128 + signal.SIGPIPE)
    except UserError as error:
        leave(_say(str(error), BAD_INPUT))
    except Elsewhere:
        leave(BAD_INPUT)
    except Diverged as error:
        sys.exit(_say(str(error), 1, prefix=""))
    except KeyboardInterrupt:
        leave(_say("stopped before there was anything to save", 128 + signal.SIGINT, prefix=""))
    except Interrupted as stop:
        sys.exit(_say(str(stop), stop.exit_code, prefix=""))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        leave(_say(f"cannot read or write{where}: {error.strerror or error}", BAD_INPUT))
    except Exception as error:
        if isinstance(error, ImportError) and error.name == "kernels":
            leave(_say(str(error), BAD_INPUT))
        if not is_launched():
            raise
        if are_lost(error):
            lost = "another process has ended: the same command goes on from the last checkpoint"
            leave(LOST if is_supervised() else _say(lost, LOST, prefix=""))
        traceback.print_exc()
        leave(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _flushed(command: Callable[[], None]) -> None:
    try:
        command()
    finally:
        sys.stdout.flush()


def _say(sentence: str, code: int, prefix: str = "error: ") -> int:
    if not sentence.isprintable():  # it quotes something with control characters or line ends
        from jaxnets.naming import quoted  # jaxnets imports JAX, which --help does without

        sentence = quoted(sentence, LONGEST)
    print(f"{prefix}{sentence}", file=sys.stderr)
    return code
