"""A whole epoch against the sum of its steps."""

import dataclasses
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement, in_turns
from experiments.bench.workloads import check_name, trainings
from experiments.run.options import OptionalInt, OptionalStr, check_counts
from experiments.run.session import prepare


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
        prepare()
        from experiments.bench.epoch_ways import ways

        dataset, build = trainings(self.variant, self.data, self.size, self.batch_size, 1, self.steps)
        experiment = build(0)
        steps, name = experiment.plan.steps, self.variant
        rows = ratios_to_steps(in_turns(ways(experiment, dataset, self.data), self.rounds))
        table = Table("way", "a step", "against the steps alone", title=f"{steps} steps of {name}")
        for row in rows:
            table.add_row(row["way"], f"{row['median_seconds'] / steps * 1e3:.1f} ms", f"{row['ratio']:.3f}")
        Console().print(table)
        shape = [experiment.plan.batch_size, *dataset.test.images.shape[1:]]
        return {"variant": name, "data": experiment.config["data"], "batch_shape": shape, "steps": steps, "rows": rows}


def ratios_to_steps(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Of each way the median, and the median of its ratio to `steps alone` in the same round."""
    rows = []
    for way, times in seconds.items():
        ratio = statistics.median(t / a for t, a in zip(times, seconds["steps alone"], strict=True))
        rows.append({"way": way, "median_seconds": statistics.median(times), "ratio": ratio, "seconds": times})
    return rows
