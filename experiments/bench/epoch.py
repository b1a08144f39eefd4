"""A whole epoch against the sum of its steps."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.terminal import UserError, check_counts
from experiments.variants import VARIANTS


@dataclasses.dataclass(frozen=True)
class EpochCost:
    """A whole epoch against the sum of its steps, as a Python loop over the jitted step and as one jitted scan."""

    variant: str = "v1_2_3"
    """a variant, on MNIST; or mynn, on pictures that are decoded and kept, or streamed"""
    data: str = "faces"
    """of mynn: as python -m experiments.mynn takes it"""
    size: int = 224
    """of mynn: height and width to which pictures are brought"""
    batch_size: int = 64
    """of mynn: examples a step"""
    steps: int = 20
    """of an epoch"""
    rounds: int = 5
    """times that each way is taken; the median counts"""
    out: Path | None = None
    """write the result as JSON"""

    def measure(self) -> dict[str, Any]:
        check_counts(self, ("size", "batch_size", "steps", "rounds"))
        if self.variant != "mynn" and self.variant not in VARIANTS:
            raise UserError(
                f"there is nothing called {self.variant!r} to measure; there is mynn, {', '.join(VARIANTS)}"
            )
        if self.variant == "mynn":
            from experiments.bench.epoch_of_pictures import measure

            return measure(self)
        return _epoch(self)


def _epoch(config: EpochCost) -> dict[str, Any]:
    """Three ways to take the same steps, in turns; the same state all along, so that their work is the same."""
    from experiments.session import prepare

    prepare()
    import jax
    import numpy as np

    from experiments.arcloss import build_optimizer
    from jaxnets import (
        ArcFace,
        MarginHead,
        create,
        create_train_state,
        load,
        quick_compilation,
        train_epoch,
        train_step,
    )
    from jaxnets.data import Split
    from jaxnets.epochs import Totals, epoch_order, take_steps

    variant = VARIANTS[config.variant]
    train = load("mnist").train
    size = variant.batch_size
    split = jax.device_put(Split(train.images[: size * config.steps], train.labels[: size * config.steps]))
    state = create_train_state(
        jax.random.key(0),
        create(config.variant),
        MarginHead(10, ArcFace(0.3), 3.107),
        split.images,
        net_optimizer=build_optimizer(variant.net, config.steps)[0],
        head_optimizer=build_optimizer(variant.head, config.steps)[0],
    )
    options = quick_compilation()
    single = jax.jit(train_step, compiler_options=options)
    scan = jax.jit(take_steps, static_argnames=("batch_size", "steps"), compiler_options=options)
    batches = [
        jax.device_put(Split(np.asarray(split.images[i : i + size]), np.asarray(split.labels[i : i + size])))
        for i in range(0, size * config.steps, size)
    ]

    def whole_epoch() -> float:
        copy = jax.tree.map(lambda leaf: leaf.copy(), state)
        before = time.perf_counter()
        train_epoch(copy, split, size)
        return time.perf_counter() - before

    def one_scan() -> float:
        before = time.perf_counter()
        order = epoch_order(state.key, 0, split.labels.shape[0])
        out = scan(state, Totals.zero(config.steps), split, order, np.int32(0), batch_size=size, steps=config.steps)
        jax.block_until_ready(out)
        return time.perf_counter() - before

    ways = {
        "steps alone": lambda: seconds_of_steps(single, state, batches),
        "train_epoch": whole_epoch,
        "one scan": one_scan,
    }
    rows = compare(ways, config)
    return {"variant": config.variant, "steps": config.steps, "rows": rows}


def seconds_of_steps(step: Callable[..., Any], state: Any, batches: Iterable[Any]) -> float:
    """Of one step on each batch, from the same state; what lies between them does not count."""
    import jax

    seconds = 0.0
    for batch in batches:
        before = time.perf_counter()
        jax.block_until_ready(step(state, batch))
        seconds += time.perf_counter() - before
    return seconds


def compare(ways: Mapping[str, Callable[[], float]], config: EpochCost) -> list[dict[str, Any]]:
    """The seconds that each way takes, in turns, the first call uncounted; printed, and as rows of JSON."""
    for take in ways.values():
        take()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, take in ways.items():
            seconds[name].append(take())
    table = Table("way", "a step", "against the steps alone", title=f"{config.steps} steps of {config.variant}")
    alone, rows = seconds["steps alone"], []
    for name, times in seconds.items():
        ratio = statistics.median(t / a for t, a in zip(times, alone, strict=True))
        median = statistics.median(times)
        rows.append({"way": name, "median_seconds": median, "ratio": ratio, "seconds": times})
        table.add_row(name, f"{median / config.steps * 1e3:.1f} ms", f"{ratio:.3f}")
    Console().print(table)
    return rows
