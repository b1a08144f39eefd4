"""A run's folder, the whole of its memory.

    config.json            everything that decides the numbers, with versions and hardware
    metrics.jsonl          a line an epoch
    epochs/0001.npz        an epoch's arrays, from which its figures are drawn
    checkpoints/last/…     the newest states, by step; checkpoints/best/… the most accurate
    summary.json           how it ended

After an epoch are written, in this order: its arrays, its line, the best checkpoint if it is, the last checkpoint. A
process killed anywhere leaves a last checkpoint together with all that belongs to it; what was written after that is
written again.
"""

import dataclasses
import io
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.records import (
    differences,
    environment,
    read_json,
    read_lines,
    write_atomically,
    write_json,
    write_lines,
)
from experiments.terminal import UserError
from jaxnets import checkpoint
from jaxnets.epochs import Totals
from jaxnets.train import TrainState

Arrays = Mapping[str, np.ndarray]
Line = dict[str, Any]
SAVED = ("params", "batch_stats", "opt_state", "step", "key")  # of the state


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is: `epoch` epochs are recorded; of the next, `done` steps are taken, in `seconds`."""

    state: TrainState
    totals: Totals
    epoch: int = 0
    done: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Folder:
    path: Path

    def claim(self, config: Mapping[str, Any], *, fresh: bool) -> str | None:
        """Makes the folder this run's, throwing away what it holds if `fresh`.

        Returns a note where the run was begun with other versions or hardware, which may round otherwise.

        Raises:
          UserError: where it holds a run of another configuration, naming what differs.
        """
        if fresh and self.path.exists():
            shutil.rmtree(self.path)
        file = self.path / "config.json"
        if file.exists():
            begun = read_json(file)
            changed = differences(begun["config"], config)
            if changed:
                raise UserError(
                    f"{self.path} holds a run with another configuration ({'; '.join(changed)}): "
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
                f"{self.path} holds checkpoints and no config.json to say of which run: "
                "put it back, --fresh to start over, or another --out"
            )
        else:
            command = shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
            write_json(file, {"config": config, "environment": environment(), "command": command})
            return None

    def resume(self, fresh_state: TrainState, steps: int) -> tuple[Position, list[Line]]:
        """The newest position saved here and the lines that belong to it; `fresh_state` where there is none.

        Args:
          fresh_state: as training begins.
          steps: of an epoch.
        """
        start = Position(fresh_state, Totals.zero(steps))
        found = checkpoint.restore(self.path / "checkpoints" / "last", _tree(start))
        if found is None:
            return start, []
        _, tree = found
        state = fresh_state.replace(**{name: tree[name] for name in _saved(fresh_state)})
        at = tree["position"]
        position = Position(state, Totals(*tree["totals"]), int(at["epoch"]), int(at["done"]), float(at["seconds"]))
        return position, self.lines()[: position.epoch]

    def save(self, position: Position) -> None:
        """The last checkpoint, wherever in an epoch."""
        checkpoint.save(self.path / "checkpoints" / "last", int(position.state.step), _tree(position), keep=2)

    def record(self, position: Position, lines: list[Line], arrays: Arrays) -> None:
        """An epoch that has just ended: `lines` ends with its own."""
        buffer = io.BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
        write_atomically(self.path / "epochs" / f"{position.epoch:04d}.npz", buffer.getvalue())
        write_lines(self.path / "metrics.jsonl", lines)
        if lines[-1]["test_accuracy"] > max((line["test_accuracy"] for line in lines[:-1]), default=-1.0):
            checkpoint.save(self.path / "checkpoints" / "best", int(position.state.step), _tree(position), keep=1)
        self.save(position)

    def lines(self) -> list[Line]:
        """An epoch each, as far as the run has come."""
        return read_lines(self.path / "metrics.jsonl")

    def summary(self) -> Line:
        """How the run ended; empty where it has not."""
        file = self.path / "summary.json"
        return read_json(file) if file.exists() else {}

    def arrays(self, epoch: int) -> Arrays:
        """What `record` kept of an epoch, counted from 1."""
        with np.load(self.path / "epochs" / f"{epoch:04d}.npz") as file:
            return {name: file[name] for name in file.files}


def _saved(state: TrainState) -> tuple[str, ...]:
    """What is empty is left out, so that runs begun before it existed are resumed too."""
    return (*SAVED, *(name for name in ("head_stats", "averages") if getattr(state, name)))


def variables_of(tree: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint would have evaluated: {"params", "batch_stats"}, and "head" where that has parameters."""
    chosen = tree.get("averages") or tree
    params = chosen["params"]
    head = {"head": params["head"]} if params["head"] else {}
    return {"params": params["net"], "batch_stats": chosen["batch_stats"], **head}


def _tree(position: Position) -> dict[str, Any]:
    state = {name: getattr(position.state, name) for name in _saved(position.state)}
    at = {"epoch": np.array(position.epoch), "done": np.array(position.done), "seconds": np.array(position.seconds)}
    return {**state, "totals": tuple(position.totals), "position": at}
