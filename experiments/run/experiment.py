"""An experiment: all that the loop needs to know of a study's training."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from experiments.run.folder import Arrays, Folder, Line
from experiments.run.pictures import Streamed
from experiments.run.terminal import as_user_error
from jaxnets import parallel
from jaxnets.data import Dataset, Split
from jaxnets.data.streaming import Share, Stream
from jaxnets.epochs import EpochPlan, Evaluation, Totals, train_epoch_by_call, train_epoch_by_stream
from jaxnets.train import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A training, its data, and the records and figures to make of it.

    `config` holds everything that decides the numbers: a run is never resumed with another one. `state` is the state at
    the start, and `mesh` the devices that share each batch. `measure` returns an epoch's own entries of its line and
    the arrays to keep; `draw_epoch` and `draw_run` make figures from lines and kept arrays alone.
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
        """Replaces `take_steps`, or `take_batch` of a stream, where there are several devices."""
        if self.mesh.size == 1:
            return None
        by_batch = isinstance(self.train, Stream) or (self._share and isinstance(self.train.images, np.ndarray))
        return (parallel.sharded_take_batch if by_batch else parallel.sharded_take_steps)(self.mesh)

    @cached_property
    def _share(self) -> Share | None:
        """The share of a split on the host that this process reads; a stream has its own."""
        return parallel.share_of_process(self.mesh)

    def calls(
        self, state: TrainState, totals: Totals, epoch: int, done: int = 0
    ) -> Iterator[tuple[TrainState, Totals, int]]:
        """The rest of an epoch after `done` steps, as `jaxnets.epochs.train_epoch_by_call` yields it."""
        if isinstance(self.train, Stream):
            return train_epoch_by_stream(state, self.train, self.plan, epoch, done=done, totals=totals, take=self._take)
        return train_epoch_by_call(
            state, self.train, self.plan, epoch, done=done, totals=totals, take=self._take, share=self._share
        )


def recorded_data(name: str, dataset: Dataset | Streamed, plan: EpochPlan) -> dict[str, Any]:
    """The entries of an experiment's `config` that tell its batches and its data."""
    return {
        "batch_size": plan.batch_size,
        "steps_per_epoch": plan.steps,
        "data": name,
        "data_fingerprint": dataset.fingerprint(),
        "image_shape": [*dataset.test.images.shape[1:]],
        "classes": [*dataset.classes],
    }


def mesh_of(devices: int) -> Mesh:
    """The mesh of a run; a command makes it before it reads data, so that too many devices are refused at once.

    Raises:
      UserError: naming how many there are.
    """
    with as_user_error(ValueError):
        return parallel.data_mesh(devices)


def check_takes(model: nn.Module, image_shape: Sequence[int]) -> None:
    """Refuses images of a size that a network does not take.

    Raises:
      UserError: in the network's own words.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with as_user_error(ValueError):
        jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
