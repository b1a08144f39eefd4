"""A whole epoch against the sum of its steps."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement, in_turns, seconds_of
from experiments.bench.workloads import check_name, trainings
from experiments.run.options import OptionalInt, OptionalStr, check_counts

if TYPE_CHECKING:
    from experiments.run.experiment import Experiment
    from jaxnets.data import Dataset, Split
    from jaxnets.data.streaming import Stream


@dataclasses.dataclass(frozen=True)
class EpochCost(Measurement):
    """A whole epoch against the sum of its steps.

    Of a variant: as `train_epoch` takes it, and as one jitted scan. Of mynn: its pictures on the device, mapped on the
    host and, where they are stored as files, streamed.
    """

    variant: str = "v1_2_3"
    """a variant, on MNIST; or mynn, on pictures that are decoded and kept, or streamed"""
    data: OptionalStr = None
    """as the study's own command takes it; by default faces for mynn, mnist for a variant"""
    size: int = 224
    """of mynn: height and width to which pictures are brought"""
    batch_size: OptionalInt = None
    """by default 64 for mynn, the variant's own for a variant"""
    steps: int = 20
    """steps of an epoch"""
    rounds: int = 5
    """times that each way is taken; the median counts"""

    def run(self) -> dict[str, Any]:
        check_counts(self, ("size", "batch_size", "steps", "rounds"))
        check_name(self.variant)
        from experiments.run.session import prepare

        prepare()
        dataset, build = trainings(self.variant, self.data, self.size, self.batch_size, 1, self.steps)
        experiment = build(0)
        steps, name = experiment.plan.steps, self.variant
        rows = ratios_to_steps(in_turns(self._ways(experiment, dataset), self.rounds))
        table = Table("way", "a step", "against the steps alone", title=f"{steps} steps of {name}")
        for row in rows:
            table.add_row(row["way"], f"{row['median_seconds'] / steps * 1e3:.1f} ms", f"{row['ratio']:.3f}")
        Console().print(table)
        shape = [experiment.plan.batch_size, *dataset.test.images.shape[1:]]
        return {"variant": name, "data": experiment.config["data"], "batch_shape": shape, "steps": steps, "rows": rows}

    def _ways(self, experiment: "Experiment", dataset: "Dataset") -> dict[str, Callable[[], float]]:
        """All of them take the same steps from the same state, so that their work is the same."""
        import jax

        on_device = jax.device_put(dataset.train)
        ways = {"steps alone": _steps_alone(experiment, dataset.train)}
        if self.variant != "mynn":
            return ways | {
                "train_epoch": _epoch_over(experiment, on_device),
                "one scan": _one_scan(experiment, on_device),
            }
        ways |= {
            "on the device": _epoch_over(experiment, on_device),
            "mapped on the host": _epoch_over(experiment, dataset.train),
        }
        if self.data and self.data.startswith(("folder:", "tfds:")):
            from experiments.run.pictures import open_stream

            streamed = open_stream(self.data, size=self.size, batch_size=experiment.plan.batch_size, seed=0)
            ways["streamed"] = _epoch_over(experiment, streamed.train)
        return ways


def _steps_alone(experiment: "Experiment", train: "Split") -> Callable[[], float]:
    """One step on each batch; the time between them does not count."""
    import jax
    import numpy as np

    from jaxnets import quick_compilation, train_step
    from jaxnets.data import Split

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


def _epoch_over(experiment: "Experiment", train: "Split | Stream") -> Callable[[], float]:
    """An epoch as a run takes it."""
    import jax

    from jaxnets.epochs import Totals

    of_these = dataclasses.replace(experiment, train=train)

    def whole_epoch() -> float:
        copy = jax.tree.map(lambda leaf: leaf.copy(), experiment.state)  # its buffers are given up
        totals = Totals.zero(experiment.plan.steps)
        return seconds_of(lambda: [int(so_far.bad_step) for _, so_far, _ in of_these.calls(copy, totals, 0)])

    return whole_epoch


def _one_scan(experiment: "Experiment", train: "Split") -> Callable[[], float]:
    import jax
    import numpy as np

    from jaxnets import quick_compilation
    from jaxnets.epochs import Totals, epoch_order, take_steps

    state, plan = experiment.state, experiment.plan
    scan = jax.jit(take_steps, static_argnames=("batch_size", "steps"), compiler_options=quick_compilation())

    def take() -> object:
        order = epoch_order(state.key, 0, len(train.labels))
        sizes = {"batch_size": plan.batch_size, "steps": plan.steps}
        return jax.block_until_ready(scan(state, Totals.zero(plan.steps), train, order, np.int32(0), **sizes))

    return lambda: seconds_of(take)


def ratios_to_steps(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Of each way the median, and the median of its ratio to `steps alone` in the same round."""
    rows = []
    for way, times in seconds.items():
        ratio = statistics.median(t / a for t, a in zip(times, seconds["steps alone"], strict=True))
        rows.append({"way": way, "median_seconds": statistics.median(times), "ratio": ratio, "seconds": times})
    return rows
