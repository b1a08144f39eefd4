"""From the command to its first training step."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.terminal import UserError, check_counts
from experiments.variants import VARIANTS


@dataclasses.dataclass(frozen=True)
class Start:
    """From the command to its first training step, with no compiled programs kept and with them."""

    variant: str = "v1_2_3"
    """one of the ArcLoss study's"""
    rounds: int = 3
    """starts of each kind; the median counts"""
    out: Path | None = None
    """write the result as JSON"""

    def measure(self) -> dict[str, Any]:
        check_counts(self, ("rounds",))
        if self.variant not in VARIANTS:
            raise UserError(f"there is no variant {self.variant!r} to start; there is {', '.join(VARIANTS)}")
        return _start(self)


def _start(config: Start) -> dict[str, Any]:
    """Whole processes; what a command needs to end is counted in, so the figures are a little too high."""
    table = Table("compiled programs", "to the first step", title=f"start of {config.variant}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("none kept", "kept"):
            seconds = []
            for i in range(config.rounds):
                cache = Path(folder) / ("kept" if kind == "kept" else f"none{i}")
                if kind == "kept" and i == 0:
                    _first_step(config.variant, Path(folder) / "warm-up", cache)
                seconds.append(_first_step(config.variant, Path(folder) / f"{kind}{i}", cache))
            rows.append({"compiled_programs": kind, "median_seconds": statistics.median(seconds), "seconds": seconds})
            table.add_row(kind, f"{rows[-1]['median_seconds']:.1f} s")
    Console().print(table)
    return {"variant": config.variant, "rows": rows}


def _first_step(variant: str, out: Path, cache: Path) -> float:
    arguments = ["--variant", variant, "--epochs", "1", "--steps-per-epoch", "1", "--out", str(out)]
    before = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "experiments.arcloss", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
    )
    wall = time.perf_counter() - before
    summary = json.loads((out / "arcloss" / variant / "seed0" / "summary.json").read_text())
    return wall - summary["command_seconds"] + summary["seconds_to_first_step"]
