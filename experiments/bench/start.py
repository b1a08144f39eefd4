"""From the command to its first training step."""

import dataclasses
import itertools
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

from experiments.arcloss.variants import VARIANTS
from experiments.bench.harness import Measurement, in_turns
from experiments.run.options import check_counts
from experiments.run.terminal import UserError


@dataclasses.dataclass(frozen=True)
class Start(Measurement):
    """From the command to its first training step, with no compiled programs kept and with them."""

    variant: str = "v1_2_3"
    """one of the ArcLoss study's"""
    rounds: int = 3
    """starts of each kind; the median counts"""

    def run(self) -> dict[str, Any]:
        """Times whole processes; the end of each is counted in, so the figures are a little too high."""
        check_counts(self, ("rounds",))
        if self.variant not in VARIANTS:
            raise UserError(f"there is no variant {self.variant!r} to start; there is {', '.join(VARIANTS)}")
        with tempfile.TemporaryDirectory() as folder:
            outs = (Path(folder) / str(i) for i in itertools.count())
            kept = Path(folder) / "kept"
            ways = {
                "none kept": lambda: _first_step(self.variant, out := next(outs), out / "none"),
                "kept": lambda: _first_step(self.variant, next(outs), kept),
            }
            found = in_turns(ways, self.rounds)
        table = Table("compiled programs", "to the first step", title=f"start of {self.variant}")
        rows = []
        for kind, seconds in found.items():
            rows.append({"compiled_programs": kind, "median_seconds": statistics.median(seconds), "seconds": seconds})
            table.add_row(kind, f"{rows[-1]['median_seconds']:.1f} s")
        Console().print(table)
        return {"variant": self.variant, "rows": rows}


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
