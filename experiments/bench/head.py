"""The margin softmax alone: full logits, in chunks, fused, and in PyTorch; each in a process of its own.

With --sharded it is a training step whose classes are split over virtual devices, which is counted and not timed.
"""

import dataclasses
import itertools
import json
from importlib.util import find_spec
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from experiments.bench import sharded_head
from experiments.bench.harness import Measurement, said_by
from experiments.run.options import check_counts
from experiments.run.terminal import UserError

CONTENDERS = ("reference", "chunked", "pallas_gpu", "pallas_tpu", "torch", "torch.compile")


@dataclasses.dataclass(frozen=True)
class Head(Measurement):
    """The margin softmax alone, forward and with both gradients: full logits, in chunks, fused, and PyTorch's."""

    classes: tuple[int, ...] = (10_000, 100_000)
    batches: tuple[int, ...] = (4096,)
    dimensions: int = 512
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    contenders: tuple[str, ...] = CONTENDERS
    """some of these; the two of PyTorch are left out where it is not installed"""
    rounds: int = 5
    """times that each is taken; the median counts"""
    limit: int = 120
    """seconds that a contender may take for one number of classes, compilation included"""
    sharded: bool = False
    """count the memory of a step with split classes, and the bytes that devices send; the rest does not apply"""
    devices: int = 8
    """with --sharded: the number of virtual devices"""
    sample: float = 0.1
    """with --sharded: the share of the classes of a sample; all classes are counted too"""

    def run(self) -> dict[str, Any]:
        check_counts(self, ("dimensions", "rounds", "limit", "devices"))
        unknown = set(self.contenders) - set(CONTENDERS)
        if unknown or not self.contenders or not self.classes or min(self.classes) < 2:
            raise UserError(f"--contenders must be of {', '.join(CONTENDERS)}, and --classes 2 or more")
        if not self.batches or min(self.batches) < 1:
            raise UserError("--batches must be 1 or more")
        if self.sharded:
            return self._sharded()
        installed = [name for name in self.contenders if find_spec("torch") or not name.startswith("torch")]
        table = Table("of", "contender", "forward", "both", "of the matrix rate", "memory", title="margin softmax")
        rows: list[dict[str, Any]] = []
        for num_classes, batch in itertools.product(self.classes, self.batches):
            row: dict[str, Any] = {"name": f"{num_classes:,} classes, {batch:,} rows"}
            row |= {"classes": num_classes, "batch": batch}
            rows.append(row)
            for name in installed:
                row[name] = result = self._of(name, num_classes, batch)
                cells = _cells(result, batch * self.dimensions * num_classes)
                table.add_row(row["name"], name, *cells)
                Console(stderr=True).print(f"{row['name']}, {name}: {', '.join(cells)}", highlight=False)
        Console().print(table)
        return {"dimensions": self.dimensions, "dtype": self.dtype, "rows": rows}

    def _of(self, name: str, num_classes: int, batch: int) -> dict[str, Any]:
        """The result of the contender's process, or {"refused": the reason}."""
        job = {field: getattr(self, field) for field in ("dimensions", "dtype", "rounds")}
        job |= {"batch": batch, "classes": num_classes, "contender": name}
        return said_by("experiments.bench.head_worker", json.dumps(job), limit=self.limit)

    def _sharded(self) -> dict[str, Any]:
        largest = max(*self.batches, self.dimensions)
        if min(self.classes) <= largest or self.devices < 2 or not 0 < self.sample <= 1:
            raise UserError(
                f"--sharded counts --devices 2 or more, --sample in (0, 1], and more --classes than rows and "
                f"--dimensions, {largest}, so that the shapes of arrays tell them apart"
            )
        if any(batch % self.devices for batch in self.batches):
            raise UserError(f"--batches must be multiples of --devices, {self.devices}, which share the rows")
        sizes = {name: getattr(self, name) for name in ("dimensions", "devices", "sample")}
        counted = sharded_head.measure(self.classes, self.batches, **sizes, limit=self.limit)
        return {**sizes, **counted}


def _cells(result: dict[str, Any], products: int) -> list[str]:
    if "refused" in result:
        return [result["refused"], "", "", ""]
    forward, both = result["forward_seconds"], result["both_seconds"]
    # Forward one product of embeddings and class weights; backward three more where it is computed again.
    share = 2 * products / result["matrix_rate"] / forward, 8 * products / result["matrix_rate"] / both
    times = f"{forward * 1e3:.2f} ms", f"{both * 1e3:.2f} ms"
    return [*times, f"{share[0]:.0%}, {share[1]:.0%}", f"{result['peak_bytes'] / 2**20:.0f} MiB"]
