"""Numbers as the tables write them."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.run.terminal import counted

RESULTS = Path(__file__).parents[1] / "results"
CALLED = {"jaxnets": "jaxnets", "torch": "PyTorch", "torch.compile": "torch.compile"}


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def percent(share: float, digits: int = 2) -> str:
    """A share of 1 in %, without the sign: the head of the column has it."""
    return f"{100 * share:.{digits}f}"


def mean(shares: Sequence[float], digits: int = 2) -> str:
    """The mean in %, with the standard deviation where there are several; without the sign.

    >>> mean([0.96, 0.97]), mean([0.96])
    ('96.50 ± 0.71', '96.00')
    """
    spread = f" ± {percent(statistics.stdev(shares), digits)}" if len(shares) > 1 else ""
    return percent(statistics.mean(shares), digits) + spread


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head(columns: Sequence[str]) -> list[str]:
    return [row(columns), "|" + "---|" * len(columns)]


def made_by(result: dict[str, Any]) -> str:
    """The command, the hardware and the versions of a result."""
    commands = result["command"] if isinstance(result["command"], list) else [result["command"]]
    env = result["environment"]
    peer = f", PyTorch {env['torch']}" if env.get("torch") else ""
    machine = f"{env['cpu']}, {counted(env['cpu_cores'], 'core')}"
    return f"`{commands[0]}`; {machine}, Python {env['python']}, JAX {env['jax']}{peer}."
