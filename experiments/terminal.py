"""The terminal: one sentence for what went wrong, exit codes, signals, and a progress bar."""

import contextlib
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeAlias

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

# Options whose default is said in their help, and not as "None".
OptionalInt: TypeAlias = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat: TypeAlias = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
OptionalStr: TypeAlias = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
OptionalPath: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]

BAD_INPUT = 2  # the exit code for whatever the person can put right


class UserError(Exception):
    """One sentence for the person: what was wrong, where, and what to do."""


@contextlib.contextmanager
def said_by_a_library(kind: type[Exception]) -> Iterator[None]:
    """Where arguments come from the person, so does what a function documents that it raises about them."""
    try:
        yield
    except kind as error:
        raise UserError(str(error)) from error


def counted(number: int, thing: str) -> str:
    """As in 1 epoch, 2 epochs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class Diverged(Exception):
    """A run whose loss or parameters stopped being finite; its last good checkpoint is kept."""


class Interrupted(Exception):
    """A run that was told to stop, and saved itself; the exit code is the shell's, 128 + the signal's number."""

    def __init__(self, sentence: str, signal_number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + signal_number


def parse(config: Any, prog: str, argv: list[str] | None = None) -> Any:
    """A frozen dataclass, or one of a union of them, from the command line; what does not fit raises UserError."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config, prog=prog, args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if stop.code:
            raise UserError(_sentence(complaint.getvalue(), prog)) from None
        raise


def _sentence(panel: str, prog: str) -> str:
    """What a panel of the command-line parser says, without its frame and its repetitions."""
    lines = [re.sub(r"[─│╭╮╰╯]+", " ", line).strip() for line in panel.splitlines()[1:]]
    body = " ".join(lines[: next((i for i, line in enumerate(lines) if not line and i), len(lines))])
    body = re.sub(r"\s+", " ", body).strip().rstrip(":.").removeprefix("Error ")
    return f"{body[0].lower()}{body[1:]}; see {prog} --help" if body else f"unusable arguments; see {prog} --help"


def main(command: Callable[[], None]) -> None:
    """Runs a command, and turns what a person can put right into a sentence and an exit code."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        command()
    except UserError as error:
        sys.exit(_say(str(error), BAD_INPUT))
    except Diverged as error:
        sys.exit(_say(str(error), 1, prefix=""))
    except ImportError as error:
        if error.name != "kernels":
            raise
        sys.exit(_say(str(error), BAD_INPUT))
    except KeyboardInterrupt:
        sys.exit(_say("stopped before there was anything to save", 128 + signal.SIGINT, prefix=""))
    except Interrupted as stop:
        sys.exit(_say(str(stop), stop.exit_code, prefix=""))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        sys.exit(_say(f"cannot read or write{where}: {error.strerror or error}", BAD_INPUT))


def check_counts(config: Any, names: tuple[str, ...]) -> None:
    """Refuses options that count something and are below one; None is none given."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must be in 0 … 2³² − 1, not {seed}")


def _say(sentence: str, code: int, prefix: str = "error: ") -> int:
    print(f"{prefix}{sentence}", file=sys.stderr)
    return code


class StopSignals:
    """Ctrl-C and SIGTERM only set `received`, so that a run stops where it can save; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)


class ProgressBar:
    """Images done, a second and still to come, and the time left; where no person watches, lines alone."""

    def __init__(self, name: str, images: int) -> None:
        self._name = name
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _ImagesPerSecond())
        console = Console(stderr=True)
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, speed_estimate_period=60
        )
        self._task = self._progress.add_task(name, total=images)

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def describe(self, what: str) -> None:
        self._progress.update(self._task, description=f"{self._name} · {what}")

    def start_at(self, images: int) -> None:
        """What an earlier process did, kept out of the speed."""
        self._progress.reset(self._task, completed=images)

    def advance_to(self, images: int) -> None:
        self._progress.update(self._task, completed=images)

    def say(self, sentence: str) -> None:
        """A line that stays, above the bar."""
        if self._progress.disable:
            print(sentence, flush=True)
        else:
            self._progress.console.print(sentence, highlight=False, markup=False, soft_wrap=True)


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="progress.data.speed")
