"""Whole training steps, and inference, ours and PyTorch's taking turns."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from experiments.bench.cases import cases
from experiments.bench.contender import contenders, measure
from experiments.terminal import check_counts


@dataclasses.dataclass(frozen=True)
class Step:
    """Whole training steps, ours and PyTorch's where it is installed, taking turns step by step."""

    variants: tuple[str, ...] = ("v1_2_3",)
    """names of variants; all (of them); or mynn"""
    rounds: int = 7
    """steps of each contender; the median counts"""
    compiled: bool = False
    """torch.compile too"""
    out: Path | None = None
    """write the result as JSON"""

    def measure(self) -> dict[str, Any]:
        check_counts(self, ("rounds",))
        return _compare("step", self.variants, self.rounds, compiled=self.compiled)


@dataclasses.dataclass(frozen=True)
class Inference:
    """10,000 images, and as many as fill the last batch, made into embeddings, ours and PyTorch's taking turns."""

    variants: tuple[str, ...] = ("v1_2_3",)
    """names of variants; or all (of them)"""
    rounds: int = 5
    """times that each contender embeds them all; the median counts"""
    compiled: bool = False
    """torch.compile too"""
    out: Path | None = None
    """write the result as JSON"""

    def measure(self) -> dict[str, Any]:
        check_counts(self, ("rounds",))
        return _compare("inference", self.variants, self.rounds, compiled=self.compiled)


def _compare(
    task: Literal["step", "inference"], names: tuple[str, ...], rounds: int, *, compiled: bool
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    chosen, contending = cases(names), contenders(compiled=compiled)
    table = Table("of", "contender", task, "times PyTorch's rate", "compilation", "memory", title=task)
    for case in chosen:
        row = measure(case, task, contending, rounds)
        rows.append(row)
        for each in contending:
            result = row[each]
            ratio = row["torch"]["median_seconds"] / result["median_seconds"] if "torch" in row else None
            cells = [
                f"{result['median_seconds'] * 1e3:.1f} ms",
                f"{ratio:.2f}" if ratio else "–",
                f"{result['compile_seconds']:.1f} s",
                f"{result['peak_bytes'] / 2**20:.0f} MiB",
            ]
            table.add_row(case.name, each, *cells)
            Console(stderr=True).print(f"{case.name}, {each}: {', '.join(cells)}", highlight=False)
    Console().print(table)
    return {"rows": rows}
