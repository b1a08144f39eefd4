"""One loop for every experiment: epochs, progress, checkpoints, figures, resume."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from experiments.run.bar import ProgressBar
from experiments.run.experiment import Experiment
from experiments.run.folder import Folder, Line
from experiments.run.processes import agreed, by_first, is_first
from experiments.run.progress import Progress
from experiments.run.records import write_json
from experiments.run.saving import Saver
from experiments.run.session import Invocation
from experiments.run.signals import StopSignals
from experiments.run.stored import SCORES, score_of
from experiments.run.terminal import Diverged, Interrupted, UserError, as_user_error, counted, enough_memory
from jaxnets import checkpoint
from jaxnets.data import DataError
from jaxnets.epochs import Evaluation, evaluate, mean_metrics
from jaxnets.naming import quoted
from jaxnets.train import is_finite

SAVE_EVERY = 60.0  # seconds of training within an epoch that a kill may cost
SAVING = 0.05  # of the time, at most, that training waits for saves within an epoch


def run_all(
    builds: Sequence[Callable[[], Experiment]], closing_words: Callable[[Path, Line], str], invocation: Invocation
) -> None:
    """Builds and runs one experiment after the other, and prints how each ended; of several, one may diverge.

    Raises:
      UserError: as a build and `run` do, and for pictures that cannot be read.
      Interrupted: as `run`.
      Diverged: where there is one experiment alone.
    """
    for build in builds:
        with enough_memory("give a smaller --size or --batch-size"):
            experiment = build()
        try:
            with as_user_error(DataError), enough_memory(_lower(experiment)):  # of pictures read as they are needed
                summary = run(experiment, invocation)
            if is_first():
                print(closing_words(experiment.directory, summary))
        except Diverged as error:
            if len(builds) == 1:
                raise
            print(error)


def _lower(experiment: Experiment) -> str:
    """The options that lower the use of memory."""
    height, width, *_ = experiment.test.images.shape[1:]
    batch_size = experiment.plan.batch_size
    return f"give a --batch-size below {batch_size}" + (
        "" if height < 64 else f", or a --size below {max(height, width)}"
    )


def run(experiment: Experiment, invocation: Invocation) -> Line:
    """Trains to the end, or on from where an earlier process stopped, and returns the summary.

    Raises:
      UserError: the folder holds a run of another configuration, or a longer one.
      Interrupted: after Ctrl-C or SIGTERM, with everything saved.
      Diverged: the loss is no longer finite; the summary records it too.
    """
    folder = Folder(experiment.directory)
    clock = Clock(invocation.started)
    with (
        ExitStack() as held,
        StopSignals() as signals,
        Saver() as saver,
        ThreadPoolExecutor(max_workers=1) as artist,
        ProgressBar(experiment.name, experiment.epochs * experiment.plan.examples) as bar,
    ):

        def claim() -> str | None:
            held.enter_context(folder.locked(invocation.line))
            return folder.claim(experiment.config, invocation.line, fresh=invocation.fresh)

        note = by_first(claim)
        if note:
            bar.say(note)
        plan = experiment.plan
        if plan.steps == 1 and plan.last_batch_size < plan.batch_size:
            bar.say(f"note: --batch-size {plan.batch_size} is more than the {plan.examples} training images there are")
        progress = Progress.of(experiment, bar.say)
        progress.saver = saver
        bar.start_at(progress.epoch * experiment.plan.examples + progress.images)
        if 0 < progress.epoch < experiment.epochs or progress.done:
            bar.say(f"going on {progress.place}")
        if progress.epoch > experiment.epochs:
            raise UserError(
                f"{quoted(folder.path)} holds {counted(progress.epoch, 'epoch')} already, more than the "
                f"{experiment.epochs} asked for: ask for as many, --fresh to start over, or another --out"
            )
        shown = progress.lines if is_first() else []
        drawings = [artist.submit(experiment.draw_epoch, folder, line) for line in shown]
        try:
            while progress.epoch < experiment.epochs:
                _finish_epoch(experiment, progress, signals, bar, clock)
                evaluation = evaluate(progress.state, experiment.test, experiment.evaluation_batch)
                more, arrays = experiment.measure(progress.state, evaluation)
                arrays = {**arrays, "step_losses": np.asarray(progress.totals.losses)}
                progress.record(_line(experiment, progress, evaluation) | more, arrays)
                bar.say(_sentence(progress.lines[-1], experiment.epochs))
                if is_first():
                    drawings.append(artist.submit(experiment.draw_epoch, folder, progress.lines[-1]))
                _stop_if_told(agreed(signals.received, due=False)[0], progress)
            progress.wait()
            bar.describe("drawing")
            _wait(drawings)
            if is_first():
                experiment.draw_run(folder, progress.lines)
        finally:
            artist.shutdown(cancel_futures=True)  # figures that are missing are drawn when the run goes on
    return summarise(folder, progress.lines, clock)


def _finish_epoch(
    experiment: Experiment, progress: Progress, signals: StopSignals, bar: ProgressBar, clock: "Clock"
) -> None:
    """Takes the rest of the epoch's steps; saves in between after SAVE_EVERY seconds, or when told to stop."""
    bar.describe(f"epoch {progress.epoch + 1}/{experiment.epochs}")
    saved, waited = time.perf_counter(), 0.0
    for bad_step in progress.steps(experiment):
        now = time.perf_counter()
        clock.first_step(now)
        bar.advance_to(progress.epoch * experiment.plan.examples + progress.images)
        told, due = agreed(signals.received, is_due(now - saved, waited))
        ends = progress.done == experiment.plan.steps
        if bad_step >= 0 or ((told is not None or due or ends) and not is_finite(progress.state)):
            raise _diverged(experiment, progress, bad_step if bad_step >= 0 else int(progress.state.step) - 1)
        if (told is not None or due) and not ends:
            progress.save()
            saved = time.perf_counter()
            waited = saved - now
            _stop_if_told(told, progress)


def is_due(trained: float, waited: float) -> bool:
    """Whether to save after so many seconds of training, when the last save took `waited` of them.

    >>> is_due(61.0, 0.5), is_due(61.0, 6.0), is_due(121.0, 6.0)
    (True, False, True)
    """
    return trained > max(SAVE_EVERY, waited / SAVING)


def _stop_if_told(told: int | None, progress: Progress) -> None:
    if told is not None:
        progress.wait()
        raise Interrupted(
            f"stopped {progress.place}; all of it is saved in {quoted(progress.folder.path)}: "
            "the same command goes on from there",
            told,
        )


def _diverged(experiment: Experiment, progress: Progress, step: int) -> Diverged:
    progress.wait()
    folder, epoch = progress.folder, progress.epoch
    in_epoch = step - epoch * experiment.plan.steps + 1
    summary = {"verdict": "diverged", "epoch": epoch + 1, "step": in_epoch}
    by_first(lambda: write_json(folder.path / "summary.json", summary))
    last = folder.path / "checkpoints" / "last"
    has_any = bool(checkpoint.numbers(last))
    kept = f"the last good state is kept in {quoted(last)}" if has_any else "no good state was saved before"
    return Diverged(
        f"diverged: the loss was not finite at epoch {epoch + 1}, step {in_epoch}; {kept}; "
        "try a lower learning rate, scale or margin, with --fresh"
    )


def _line(experiment: Experiment, progress: Progress, evaluation: Evaluation) -> Line:
    trained = mean_metrics(progress.totals)
    line = {
        "epoch": progress.epoch + 1,
        "train_loss": trained["loss"],
        "test_loss": evaluation.loss,
        "learning_rate": experiment.learning_rate(progress.epoch),
        "train_accuracy": trained["accuracy"],
        "test_accuracy": evaluation.accuracy,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(experiment.plan.examples / progress.seconds, 1),
    }
    if math.isnan(evaluation.accuracy):  # of a test without classes that training saw
        del line["test_loss"], line["test_accuracy"]
    return line


def _sentence(line: Line, epochs: int) -> str:
    score = score_of(line)
    verdict = f"{line['verdict']:<11}  " if "verdict" in line else ""
    return (
        f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}  loss {line['train_loss']:.4f}  "
        f"{SCORES[score]} {line[score]:.4f}  {verdict}{line['seconds']:.1f} s"
    )


def summarise(folder: Folder, lines: list[Line], clock: "Clock") -> Line:
    score = score_of(lines[0])
    best = max(lines, key=lambda line: line[score])
    summary = {
        "epochs": len(lines),
        "last": lines[-1],
        "best": {"epoch": best["epoch"], score: best[score]},
        "verdict": lines[-1].get("verdict"),
        "seconds_training": round(sum(line["seconds"] for line in lines), 3),
        "seconds_to_first_step": clock.seconds_to_first_step,
        "command_seconds": round(time.perf_counter() - clock.started, 3),
    }
    by_first(lambda: write_json(folder.path / "summary.json", summary))
    return summary


def _wait(drawings: list[Future[None]]) -> None:
    for drawing in drawings:
        drawing.result()


class Clock:
    def __init__(self, started: float) -> None:
        self.started = started
        self.seconds_to_first_step: float | None = None

    def first_step(self, now: float) -> None:
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = round(now - self.started, 3)
