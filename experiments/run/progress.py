"""A run's progress: the only owner of its state, from its first step to its last, in memory and in its folder."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh

from experiments.run.experiment import Experiment
from experiments.run.folder import Arrays, Folder, Line
from experiments.run.processes import by_first, first_says
from experiments.run.saving import Saver
from experiments.run.stored import score_of
from experiments.run.terminal import counted
from jaxnets import parallel
from jaxnets.epochs import Totals
from jaxnets.heads import CLASS_WEIGHTS
from jaxnets.sharded_head import ShardedMarginHead
from jaxnets.train import TrainState

SAVED = ("params", "batch_stats", "opt_state", "step", "key")  # of the state
KEPT = {"last": 2, "best": 1}  # checkpoints of each kind
IF_ANY = ("head_stats", "averages")  # left out where empty, so that runs begun before they existed are resumed too

T = TypeVar("T")


@dataclasses.dataclass
class Progress:
    """Where a run is: `lines` has one for each ended epoch; of the next, `done` steps are taken, in `seconds`.

    Checkpoints are written by `saver` while training goes on; without one, at once.
    """

    folder: Folder
    mesh: Mesh
    state: TrainState
    totals: Totals
    lines: list[Line] = dataclasses.field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    saver: Saver | None = None

    @property
    def epoch(self) -> int:
        """How many epochs have ended."""
        return len(self.lines)

    @property
    def images(self) -> int:
        """How many of the running epoch's images were trained on."""
        return int(self.totals.examples)

    @property
    def place(self) -> str:
        """The position in words."""
        steps = f" and {counted(self.done, 'step')}" if self.done else ""
        return f"after {counted(self.epoch, 'epoch')}{steps}"

    @classmethod
    def of(cls, experiment: Experiment, say: Callable[[str], None] = print) -> "Progress":
        """The progress saved in the run's folder; the start if it holds no checkpoint.

        `say` is given a sentence for each checkpoint that is damaged; the one before it is taken.
        """
        folder, mesh = Folder(experiment.directory), experiment.mesh
        state, totals = _place(mesh, experiment.state), _place(mesh, Totals.zero(experiment.plan.steps))
        start = cls(folder, mesh, state, totals)
        tree = folder.restore(start._tree(), say, num_classes=_classes(state))
        if tree is None:
            return start
        state = state.replace(**{name: tree[name] for name in _saved(state)})
        state, totals = _place(mesh, state), _place(mesh, Totals(*tree["totals"]))
        at = tree["position"]
        epochs = int(at["epoch"])
        lines = folder.lines(epochs)[:epochs]
        return cls(folder, mesh, state, totals, lines, int(at["done"]), float(at["seconds"]))

    def steps(self, experiment: Experiment) -> Iterator[int]:
        """Takes the rest of the epoch's steps. Yields after each jitted call: the first step with a bad loss, or −1."""
        before = time.perf_counter()
        for state, totals, done in experiment.calls(self.state, self.totals, self.epoch, self.done):
            self.state, self.totals, self.done = state, totals, done
            bad_step = int(totals.bad_step)  # waits for the call to end
            self.seconds += time.perf_counter() - before
            yield bad_step
            before = time.perf_counter()  # saving in between does not count as training

    def save(self) -> None:
        """The last checkpoint, wherever in an epoch."""
        self._save("last")

    def record(self, line: Line, arrays: Arrays) -> None:
        """Ends an epoch: writes its line, its arrays and its state, and the best state if this epoch is the best."""
        score = score_of(line)
        is_best = first_says(line[score] > max((each[score] for each in self.lines), default=-1.0))
        self.lines = [*self.lines, line]
        by_first(lambda: self.folder.keep(self.lines, arrays))
        self.totals = _place(self.mesh, Totals.zero(len(self.totals.losses)))
        self.done, self.seconds = 0, 0.0
        self._save(*(("best", "last") if is_best else ("last",)))

    def wait(self) -> None:
        """Until all that was saved is written."""
        if self.saver is not None:
            self.saver.wait()

    def _save(self, *kinds: str) -> None:
        number, num_classes = int(self.state.step), _classes(self.state)

        def write(tree: dict[str, Any]) -> None:
            for kind in kinds:
                self.folder.save(kind, number, tree, keep=KEPT[kind], num_classes=num_classes)

        if self.saver is None:
            write(self._tree())
        else:
            self.saver.save(write, self._tree(), num_classes)

    def _tree(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        state = {name: getattr(self.state, name) for name in _saved(self.state)}
        at = {"epoch": np.array(self.epoch), "done": np.array(self.done), "seconds": np.array(self.seconds)}
        return {**state, "totals": tuple(self.totals), "position": at}


def variables_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The variables to evaluate in a checkpoint: {"params", "batch_stats"}, and a head's "class_weights"."""
    chosen = tree.get("averages") or tree
    params = chosen["params"]
    head = {"head": {CLASS_WEIGHTS: params["head"][CLASS_WEIGHTS]}} if params["head"] else {}
    return {"params": params["net"], "batch_stats": chosen["batch_stats"], **head}


def _classes(state: TrainState) -> int | None:
    """How many rows of padded class weights are saved; None where there is no padding."""
    return state.head.num_classes if isinstance(state.head, ShardedMarginHead) else None


def _saved(state: TrainState) -> tuple[str, ...]:
    return (*SAVED, *(name for name in IF_ANY if getattr(state, name)))


def _place(mesh: Mesh, tree: T) -> T:
    """Copies everything that training changes to each device, for fresh and restored runs alike.

    A state with split class weights lies where it should: its head has made it there, and so is it restored.
    """
    if isinstance(tree, TrainState) and isinstance(tree.head, ShardedMarginHead):
        return tree
    placed: T = parallel.replicate(tree, mesh)
    return placed
