"""The ways that `epoch` compares to take the steps of an epoch."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from experiments.bench.harness import seconds_of
from experiments.run.experiment import Experiment
from experiments.run.pictures import open_stream
from jaxnets import quick_compilation, train_step
from jaxnets.data import Dataset, Split
from jaxnets.data.streaming import Stream
from jaxnets.epochs import Totals, epoch_order, take_steps


def ways(experiment: Experiment, dataset: Dataset, data: str | None) -> dict[str, Callable[[], float]]:
    """All of them take the same steps from the same state, so that their work is the same."""
    on_device = jax.device_put(dataset.train)
    found = {"steps alone": _steps_alone(experiment, dataset.train)}
    if experiment.name != "mynn":
        return found | {
            "train_epoch": _epoch_over(experiment, on_device),
            "one scan": _one_scan(experiment, on_device),
        }
    found |= {
        "on the device": _epoch_over(experiment, on_device),
        "mapped on the host": _epoch_over(experiment, dataset.train),
    }
    if data and data.startswith(("folder:", "tfds:")):
        streamed = open_stream(
            data, size=experiment.config["image_shape"][0], batch_size=experiment.plan.batch_size, seed=0
        )
        found["streamed"] = _epoch_over(experiment, streamed.train)
    return found


def _steps_alone(experiment: Experiment, train: Split) -> Callable[[], float]:
    """One step on each batch; the time between them does not count."""
    state, plan = experiment.state, experiment.plan
    step = jax.jit(train_step, compiler_options=quick_compilation())
    batches = [
        jax.device_put(Split(np.asarray(train.images[start:end]), np.asarray(train.labels[start:end])))
        for start, end in itertools.pairwise([*range(0, plan.examples, plan.batch_size), plan.examples])
    ]

    def wait_for_step(batch: Split) -> None:
        jax.block_until_ready(step(state, batch))

    def take() -> float:
        return sum([seconds_of(partial(wait_for_step, batch)) for batch in batches])

    return take


def _epoch_over(experiment: Experiment, train: Split | Stream) -> Callable[[], float]:
    """An epoch as a run takes it."""
    of_these = dataclasses.replace(experiment, train=train)

    def whole_epoch() -> float:
        copy = jax.tree.map(lambda leaf: leaf.copy(), experiment.state)  # its buffers are given up
        totals = Totals.zero(experiment.plan.steps)
        return seconds_of(lambda: [int(so_far.bad_step) for _, so_far, _ in of_these.calls(copy, totals, 0)])

    return whole_epoch


def _one_scan(experiment: Experiment, train: Split) -> Callable[[], float]:
    state, plan = experiment.state, experiment.plan
    scan = jax.jit(take_steps, static_argnames=("batch_size", "steps"), compiler_options=quick_compilation())

    def take() -> object:
        order = epoch_order(state.key, 0, len(train.labels))
        sizes = {"batch_size": plan.batch_size, "steps": plan.steps}
        return jax.block_until_ready(scan(state, Totals.zero(plan.steps), train, order, np.int32(0), **sizes))

    return lambda: seconds_of(take)
