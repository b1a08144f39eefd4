"""One loop for every experiment: epochs, progress, checkpoints, figures, resume."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.folder import Arrays, Folder, Line, Position
from experiments.records import write_json
from experiments.terminal import Diverged, Interrupted, ProgressBar, StopSignals, UserError, counted, said_by_a_library
from jaxnets.data import DataError, Split
from jaxnets.data.streaming import Stream
from jaxnets.epochs import (
    Epoch,
    Evaluation,
    Totals,
    evaluate,
    mean_metrics,
    train_epoch_by_call,
    train_epoch_by_stream,
)
from jaxnets.train import TrainState, is_finite

SAVE_EVERY = 60.0  # seconds of training within an epoch that a kill may cost


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `run` needs to know.

    `config` is all that decides the numbers: a run is never resumed with another. `measure` says what an epoch adds to
    its line and which arrays to keep of it; `draw_epoch` and `draw_run` make figures of lines and kept arrays alone.
    """

    name: str
    directory: Path
    config: Mapping[str, Any]
    epochs: int
    cut: Epoch
    state: TrainState
    train: Split | Stream
    test: Split
    learning_rate: Callable[[int], float]
    measure: Callable[[TrainState, Evaluation], tuple[Line, Arrays]]
    draw_epoch: Callable[[Folder, Line], None]
    draw_run: Callable[[Folder, list[Line]], None]
    take: Callable[..., Any] | None = None  # stands in for the single-device `take_steps`
    evaluation_batch: int = 1000


def run_all(
    builds: Sequence[Callable[[], Experiment]],
    closing_words: Callable[[Path, Line], str],
    *,
    fresh: bool,
    started: float,
) -> None:
    """Builds and runs one experiment after the other, and says how each ended; of several, one may diverge.

    Raises:
      UserError: for arguments that a library refuses, for pictures that cannot be read, and as `run`.
      Interrupted: as `run`.
      Diverged: where there is one experiment alone.
    """
    for build in builds:
        with said_by_a_library(ValueError):
            experiment = build()
        try:
            with said_by_a_library(DataError):  # of pictures that are read as they are needed
                summary = run(experiment, fresh=fresh, started=started)
            print(closing_words(experiment.directory, summary))
        except Diverged as error:
            if len(builds) == 1:
                raise
            print(error)


def run(experiment: Experiment, *, fresh: bool, started: float) -> Line:
    """Trains to the end, or on from where an earlier process stopped, and returns the summary.

    Args:
      experiment: what to run.
      fresh: throws away what the run's folder holds.
      started: `time.perf_counter()` when the command began, for the time to the first step.

    Raises:
      UserError: where the folder holds a run of another configuration, or a longer one.
      Interrupted: after Ctrl-C or SIGTERM, with everything saved.
      Diverged: where the loss is no longer finite; the summary says so too.
    """
    folder = Folder(experiment.directory)
    clock = _Clock(started)
    with (
        StopSignals() as signals,
        ThreadPoolExecutor(max_workers=1) as artist,
        ProgressBar(experiment.name, experiment.epochs * experiment.cut.examples) as bar,
    ):
        note = folder.claim(experiment.config, fresh=fresh)
        if note:
            bar.say(note)
        position, lines = folder.resume(experiment.state, experiment.cut.steps)
        bar.start_at(position.epoch * experiment.cut.examples + int(position.totals.examples))
        if position.epoch > experiment.epochs:
            raise UserError(
                f"{folder.path} holds {counted(position.epoch, 'epoch')} already, more than the {experiment.epochs} "
                "asked for: ask for as many, --fresh to start over, or another --out"
            )
        drawings = [artist.submit(experiment.draw_epoch, folder, line) for line in lines]
        try:
            while position.epoch < experiment.epochs:
                position = _finish_epoch(experiment, folder, position, signals, bar, clock)
                evaluation = evaluate(position.state, experiment.test, experiment.evaluation_batch)
                more, arrays = experiment.measure(position.state, evaluation)
                arrays = {**arrays, "step_losses": np.asarray(position.totals.losses)}
                lines = [*lines, _line(experiment, position, evaluation) | more]
                position = Position(position.state, Totals.zero(experiment.cut.steps), position.epoch + 1)
                folder.record(position, lines, arrays)
                bar.say(_sentence(lines[-1], experiment.epochs))
                drawings.append(artist.submit(experiment.draw_epoch, folder, lines[-1]))
                _stop_if_told(signals, folder, position)
            bar.describe("drawing")
            _wait(drawings)
            experiment.draw_run(folder, lines)
        finally:
            artist.shutdown(cancel_futures=True)  # what is not drawn now is drawn when the run goes on
    return _summarise(folder, lines, clock)


def _finish_epoch(
    experiment: Experiment, folder: Folder, position: Position, signals: StopSignals, bar: ProgressBar, clock: "_Clock"
) -> Position:
    """The position at the end of the epoch's steps, saved on the way, or an exception."""
    epoch, seconds = position.epoch, position.seconds
    bar.describe(f"epoch {epoch + 1}/{experiment.epochs}")
    before = saved = time.perf_counter()
    for state, totals, done in calls(experiment, position):
        bad_step = int(totals.bad_step)  # waits for the call to end
        now = time.perf_counter()
        clock.first_step(now)
        position = Position(state, totals, epoch, done, seconds + now - before)
        bar.advance_to(epoch * experiment.cut.examples + int(totals.examples))
        told, due = signals.received is not None, now - saved > SAVE_EVERY
        ends = done == experiment.cut.steps
        if bad_step >= 0 or ((told or due or ends) and not is_finite(state)):
            raise _diverged(experiment, folder, epoch, bad_step if bad_step >= 0 else int(state.step) - 1)
        if (told or due) and not ends:
            folder.save(position)
            saved = time.perf_counter()
            before += saved - now  # saving is not training
            _stop_if_told(signals, folder, position)
    return position


def calls(experiment: Experiment, position: Position) -> Iterator[tuple[TrainState, Totals, int]]:
    """What is left of an epoch's steps, as `jaxnets.epochs.train_epoch_by_call` gives it."""
    state, train, cut, epoch = position.state, experiment.train, experiment.cut, position.epoch
    if isinstance(train, Stream):
        return train_epoch_by_stream(state, train, cut, epoch, done=position.done, totals=position.totals)
    return train_epoch_by_call(
        state, train, cut, epoch, done=position.done, totals=position.totals, take=experiment.take
    )


def _stop_if_told(signals: StopSignals, folder: Folder, position: Position) -> None:
    if signals.received is not None:
        where = f"after {counted(position.epoch, 'epoch')}" + (
            f" and {counted(position.done, 'step')}" if position.done else ""
        )
        raise Interrupted(
            f"stopped {where}; all of it is saved in {folder.path}: the same command goes on from there",
            signals.received,
        )


def _diverged(experiment: Experiment, folder: Folder, epoch: int, step: int) -> Diverged:
    in_epoch = step - epoch * experiment.cut.steps + 1
    write_json(folder.path / "summary.json", {"verdict": "diverged", "epoch": epoch + 1, "step": in_epoch})
    return Diverged(
        f"diverged: the loss was not finite at epoch {epoch + 1}, step {in_epoch}; the last good state is kept in "
        f"{folder.path / 'checkpoints' / 'last'}; try a lower learning rate, scale or margin, with --fresh"
    )


def _line(experiment: Experiment, position: Position, evaluation: Evaluation) -> Line:
    trained = mean_metrics(position.totals)
    return {
        "epoch": position.epoch + 1,
        "train_loss": trained["loss"],
        "test_loss": evaluation.loss,
        "learning_rate": experiment.learning_rate(position.epoch),
        "train_accuracy": trained["accuracy"],
        "test_accuracy": evaluation.accuracy,
        "seconds": round(position.seconds, 3),
        "images_per_second": round(experiment.cut.examples / position.seconds, 1),
    }


def _sentence(line: Line, epochs: int) -> str:
    verdict = f"{line['verdict']:<11}  " if "verdict" in line else ""
    return (
        f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}  loss {line['train_loss']:.4f}  "
        f"test accuracy {line['test_accuracy']:.4f}  {verdict}{line['seconds']:.1f} s"
    )


def _summarise(folder: Folder, lines: list[Line], clock: "_Clock") -> Line:
    best = max(lines, key=lambda line: line["test_accuracy"])
    summary = {
        "epochs": len(lines),
        "last": lines[-1],
        "best": {"epoch": best["epoch"], "test_accuracy": best["test_accuracy"]},
        "verdict": lines[-1].get("verdict"),
        "seconds_training": round(sum(line["seconds"] for line in lines), 3),
        "seconds_to_first_step": clock.seconds_to_first_step,
        "command_seconds": round(time.perf_counter() - clock.started, 3),
    }
    write_json(folder.path / "summary.json", summary)
    return summary


def _wait(drawings: list[Future[None]]) -> None:
    for drawing in drawings:
        drawing.result()


@dataclasses.dataclass
class _Clock:
    started: float
    seconds_to_first_step: float | None = None

    def first_step(self, now: float) -> None:
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = round(now - self.started, 3)
