"""A run's folder: everything that a run remembers.

    config.json            everything that decides the numbers, with versions, hardware and the command
    metrics.jsonl          a line an epoch
    epochs/0001.npz        an epoch's arrays, from which its figures are drawn
    checkpoints/last/…     the newest states, by step; checkpoints/best/… the most accurate
    summary.json           how it ended
    .lock                  held by the process that runs it, and naming it

After each epoch a run writes, in this order: the arrays, the line, the best checkpoint if the epoch is the best so far,
the last checkpoint. A process that is killed at any moment leaves a last checkpoint with everything that belongs to it;
files that are newer than this checkpoint are written again.
"""

import contextlib
import dataclasses
import io
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.run.records import differences, environment, write_json, write_lines
from experiments.run.stored import Arrays as Arrays
from experiments.run.stored import Line as Line
from experiments.run.stored import read_arrays, read_begun, read_metrics, read_summary
from experiments.run.terminal import UserError, as_user_error
from jaxnets import checkpoint
from jaxnets.files import write_atomically
from jaxnets.naming import quoted

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class Folder:
    path: Path

    @contextlib.contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Locks the folder for this process until the block or the process ends.

        Args:
          command: the command line of this process, for the message that another process gets.

        Raises:
          UserError: another process holds the lock; the message names it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / LOCK, "a+") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    file.seek(0)
                    other = quoted(file.read().strip())
                    raise UserError(
                        f"{quoted(self.path)} is in use by {other}: wait for it to end, or give another --out"
                    ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}, {command}\n")
            file.flush()
            yield

    def claim(self, config: Mapping[str, Any], command: str, *, fresh: bool) -> str | None:
        """Claims the folder for this run. With `fresh`, deletes its content first.

        Args:
          config: everything that decides the run's numbers.
          command: the command line, which is kept.
          fresh: whether to begin anew.

        Returns:
          A note where the run was begun with other versions or hardware, which may round otherwise.

        Raises:
          UserError: the folder holds a run of another configuration; the message names the differences.
        """
        if fresh and self.path.exists():
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != LOCK:
                    entry.unlink()
        file = self.path / "config.json"
        if file.exists():
            begun = self.begun()
            changed = differences(begun["config"], config)
            if changed:
                raise UserError(
                    f"{quoted(self.path)} holds a run with another configuration ({'; '.join(changed)}): "
                    "give the same one to go on with it, --fresh to start over, or another --out"
                )
            moved = differences(begun["environment"], environment())
            return (
                f"note: begun elsewhere, so the last bits may differ from here on ({'; '.join(moved)})"
                if moved
                else None
            )
        elif (self.path / "checkpoints").exists():
            raise UserError(
                f"{quoted(self.path)} holds checkpoints and no config.json to say of which run: "
                "put it back, --fresh to start over, or another --out"
            )
        else:
            write_json(file, {"config": config, "environment": environment(), "command": command})
            return None

    def restore(self, like: Any, say: Callable[[str], None], num_classes: int | None = None) -> Any | None:
        """The last checkpoint, shaped and placed as `like`; None where there is none.

        `num_classes` is as in `save`. `say` is given a sentence for each checkpoint that is damaged; the one before it
        is taken.
        """
        with as_user_error(checkpoint.CheckpointError):
            found = checkpoint.restore(self.path / "checkpoints" / "last", like, on_damage=say, num_classes=num_classes)
        return None if found is None else found[1]

    def save(self, kind: str, step: int, tree: Any, *, keep: int, num_classes: int | None = None) -> None:
        """Writes a checkpoint of the kind "last" or "best", and deletes all but the newest `keep`.

        Of class weights, `num_classes` rows are kept; None keeps all.
        """
        checkpoint.save(self.path / "checkpoints" / kind, step, tree, keep=keep, num_classes=num_classes)

    def keep(self, lines: list[Line], arrays: Arrays) -> None:
        """Writes the arrays of the epoch that has just ended, and the lines of all epochs so far."""
        buffer = io.BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
        write_atomically(self.path / "epochs" / f"{len(lines):04d}.npz", buffer.getvalue())
        write_lines(self.path / "metrics.jsonl", lines)

    def begun(self) -> dict[str, Any]:
        """The configuration, versions, hardware and command that the run began with."""
        return read_begun(self.path / "config.json")

    def lines(self, epochs: int = 0) -> list[Line]:
        """One line for each epoch so far; there must be at least `epochs` of them."""
        return read_metrics(self.path / "metrics.jsonl", epochs)

    def summary(self) -> Line:
        """The summary of a run that has ended; empty before."""
        return read_summary(self.path / "summary.json")

    def arrays(self, epoch: int) -> Arrays:
        """The arrays that `keep` wrote for an epoch, counted from 1."""
        return read_arrays(self.path / "epochs" / f"{epoch:04d}.npz")
