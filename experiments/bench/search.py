"""Embeddings held against each other: the nearest of a gallery, beside faiss; and all pairs."""

import contextlib
import dataclasses
import importlib.metadata
import json
import statistics
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement, TimedProcess, in_turns
from experiments.run.options import check_counts
from experiments.run.terminal import UserError


@dataclasses.dataclass(frozen=True)
class Search(Measurement):
    """The nearest embeddings of a gallery to each query, exactly: ours and faiss's IndexFlatIP, in turns."""

    queries: int = 10_000
    gallery: int = 1_000_000
    dimensions: int = 512
    k: int = 10
    """how many to find for each query"""
    rounds: int = 3
    """times that each searches, after a first one that does not count; the median counts"""

    def run(self) -> dict[str, Any]:
        check_counts(self, ("queries", "gallery", "dimensions", "k", "rounds"))
        if self.k > self.gallery:
            raise UserError(f"--k is {self.k}, and the gallery has {self.gallery}")
        if not find_spec("faiss"):
            return _run(self, ["jaxnets"])
        return _run(self, ["jaxnets", "faiss"]) | {"faiss": importlib.metadata.version("faiss-cpu")}


@dataclasses.dataclass(frozen=True)
class Pairs(Measurement):
    """Verification of all pairs of embeddings, with its confidence intervals."""

    embeddings: int = 100_000
    dimensions: int = 512
    each: int = 10
    """embeddings of an identity"""
    rounds: int = 1
    """times, after a first one that does not count; the median counts"""

    def run(self) -> dict[str, Any]:
        check_counts(self, ("embeddings", "dimensions", "each", "rounds"))
        if not 1 < self.each < self.embeddings:
            raise UserError("--each must be 2 or more, and fewer than --embeddings")
        return _run(self, ["jaxnets"])


def _run(config: Search | Pairs, contenders: list[str]) -> dict[str, Any]:
    task = type(config).__name__.lower()
    job = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "rounds")}
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                TimedProcess.start("experiments.bench.search_worker", name, task, json.dumps(job))
            )
            for name in contenders
        }
        seconds = in_turns({name: process.take for name, process in processes.items()}, config.rounds)
        row = {
            name: {
                "median_seconds": statistics.median(seconds[name]),
                "seconds": [round(value, 5) for value in seconds[name]],
                **process.end(),
            }
            for name, process in processes.items()
        }
    table = Table("contender", "seconds", "memory beyond its inputs", "found", title=f"{task}: {_said(job)}")
    for name, result in row.items():
        memory = f"{result['peak_bytes'] / 2**20:.0f} MiB"
        table.add_row(name, f"{result['median_seconds']:.2f}", memory, f"{result['found']:.6f}")
    Console().print(table)
    return {**job, "rows": [{"name": task, **row}]}


def _said(job: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in job.items())
