"""Training steps, and inference, ours and PyTorch's in turns."""

import contextlib
import dataclasses
import json
import statistics
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement, TimedProcess, in_turns
from experiments.bench.workloads import Workload, workloads
from experiments.run.options import check_counts


@dataclasses.dataclass(frozen=True)
class Step(Measurement):
    """Training steps, ours and PyTorch's where it is installed, in turns step by step."""

    variants: tuple[str, ...] = ("v1_2_3",)
    """names of variants; all (of them); or mynn"""
    rounds: int = 7
    """steps of each contender; the median counts"""
    compiled: bool = False
    """torch.compile too"""

    def run(self) -> dict[str, Any]:
        return _run("step", self)


@dataclasses.dataclass(frozen=True)
class Inference(Measurement):
    """Embeddings of 10,000 images, rounded up to whole batches, by ours and by PyTorch in turns."""

    variants: tuple[str, ...] = ("v1_2_3",)
    """names of variants; or all (of them)"""
    rounds: int = 5
    """times that each contender embeds them all; the median counts"""
    compiled: bool = False
    """torch.compile too"""

    def run(self) -> dict[str, Any]:
        return _run("inference", self)


def _run(task: str, config: Step | Inference) -> dict[str, Any]:
    check_counts(config, ("rounds",))
    chosen = workloads(config.variants)
    peers = ["torch", "torch.compile"] if config.compiled else ["torch"]
    contenders = ["jaxnets", *(peers if find_spec("torch") else [])]
    table = Table("of", "contender", task, "times PyTorch's rate", "compilation", "memory", title=task)
    rows = []
    for workload in chosen:
        row = _row(task, workload, contenders, config.rounds)
        rows.append({"name": workload.name, **row})
        for name, result in row.items():
            cells = [
                f"{result['median_seconds'] * 1e3:.1f} ms",
                f"{row['torch']['median_seconds'] / result['median_seconds']:.2f}" if "torch" in row else "–",
                f"{result['compile_seconds']:.1f} s",
                f"{result['peak_bytes'] / 2**20:.0f} MiB",
            ]
            table.add_row(workload.name, name, *cells)
            Console(stderr=True).print(f"{workload.name}, {name}: {', '.join(cells)}", highlight=False)
    Console().print(table)
    return {"rows": rows}


def _row(task: str, workload: Workload, contenders: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Each contender's times, compilation and memory, from a process of its own."""
    job = json.dumps(dataclasses.asdict(workload))
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(TimedProcess.start("experiments.bench.worker", name, task, job))
            for name in contenders
        }
        seconds = in_turns({name: process.take for name, process in processes.items()}, rounds)
        return {
            name: {
                "median_seconds": statistics.median(seconds[name]),
                "seconds": [round(value, 5) for value in seconds[name]],
                **process.end(),
            }
            for name, process in processes.items()
        }
