"""An experiment: all that the loop needs to know of a study's training."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from experiments.run.folder import Arrays, Folder, Line
from experiments.run.terminal import as_user_error
from jaxnets import parallel
from jaxnets.data import Split
from jaxnets.data.streaming import Stream
from jaxnets.epochs import EpochPlan, Evaluation, Totals, train_epoch_by_call, train_epoch_by_stream
from jaxnets.train import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training, its data, and what is kept and drawn of it.

    `config` is all that decides the numbers: a run is never resumed with another. `state` is where it begins, `mesh`
    the devices that share each batch. `measure` says what an epoch adds to its line and which arrays to keep of it;
    `draw_epoch` and `draw_run` make figures of lines and kept arrays alone.
    """

    name: str
    directory: Path
    config: Mapping[str, Any]
    epochs: int
    plan: EpochPlan
    mesh: Mesh
    state: TrainState
    train: Split | Stream
    test: Split
    learning_rate: Callable[[int], float]
    measure: Callable[[TrainState, Evaluation], tuple[Line, Arrays]]
    draw_epoch: Callable[[Folder, Line], None]
    draw_run: Callable[[Folder, list[Line]], None]
    evaluation_batch: int = 1000

    @cached_property
    def _take(self) -> Callable[..., Any] | None:
        """What stands in for the single-device `take_steps`."""
        return None if self.mesh.size == 1 else parallel.sharded_take_steps(self.mesh)

    def calls(
        self, state: TrainState, totals: Totals, epoch: int, done: int = 0
    ) -> Iterator[tuple[TrainState, Totals, int]]:
        """The rest of an epoch, of which `done` steps are taken, as `jaxnets.epochs.train_epoch_by_call` gives it."""
        if isinstance(self.train, Stream):
            return train_epoch_by_stream(state, self.train, self.plan, epoch, done=done, totals=totals)
        return train_epoch_by_call(state, self.train, self.plan, epoch, done=done, totals=totals, take=self._take)


def check_takes(model: nn.Module, image_shape: Sequence[int]) -> None:
    """Refuses images of a size that a network does not take.

    Raises:
      UserError: in the network's own words.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with as_user_error(ValueError):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
