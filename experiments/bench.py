"""Every speed and memory figure, peers in the same run.

python -m experiments.bench step --variants v1_2_3 v1_1
python -m experiments.bench epoch
python -m experiments.bench start
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.records import environment, write_json
from experiments.terminal import UserError, main, parse
from experiments.variants import VARIANTS


@dataclasses.dataclass(frozen=True)
class Step:
    """Whole training steps of variants, ours and PyTorch's where it is installed, taking turns step by step."""

    variants: tuple[str, ...] = ("v1_2_3",)
    """names, or all"""
    rounds: int = 7
    """steps of each contender; the median counts"""
    compiled: bool = False
    """torch.compile too"""
    out: Path | None = None
    """write the result as JSON"""


@dataclasses.dataclass(frozen=True)
class EpochCost:
    """A whole epoch against the sum of its steps, as a Python loop over the jitted step and as one jitted scan."""

    variant: str = "v1_2_3"
    steps: int = 20
    rounds: int = 5
    out: Path | None = None


@dataclasses.dataclass(frozen=True)
class Start:
    """From the command to its first training step, with no compiled programs kept and with them."""

    variant: str = "v1_2_3"
    rounds: int = 3
    out: Path | None = None


Command = (
    Annotated[Step, tyro.conf.subcommand("step")]
    | Annotated[EpochCost, tyro.conf.subcommand("epoch")]
    | Annotated[Start, tyro.conf.subcommand("start")]
)


def step(config: Step) -> dict[str, Any]:
    names = list(VARIANTS) if config.variants == ("all",) else list(config.variants)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UserError(f"there is no variant {unknown[0]!r}; there is {', '.join(VARIANTS)}")
    contenders = ["jaxnets"]
    if find_spec("torch"):
        contenders += ["torch", "torch.compile"] if config.compiled else ["torch"]
    rows: list[dict[str, Any]] = []
    for name in names:
        with contextlib.ExitStack() as stack:
            workers = {each: stack.enter_context(_Worker.start(each, name)) for each in contenders}
            for _ in range(config.rounds):
                for worker in workers.values():
                    worker.step()
            rows.append({"variant": name} | {each: worker.result() for each, worker in workers.items()})
            Console(stderr=True).print(_step_sentence(rows[-1]), highlight=False)
    table = Table(
        "variant", "contender", "step", "times PyTorch's rate", "first step", "peak memory", title="training step"
    )
    for row in rows:
        for each in contenders:
            result = row[each]
            ratio = row["torch"]["median_seconds"] / result["median_seconds"] if "torch" in row else None
            table.add_row(
                row["variant"],
                each,
                f"{result['median_seconds'] * 1e3:.1f} ms",
                f"{ratio:.2f}" if ratio else "–",
                f"{result['first_step_seconds']:.1f} s",
                f"{result['peak_bytes'] / 2**20:.0f} MiB",
            )
    Console().print(table)
    return {"rows": rows}


def _step_sentence(row: dict[str, Any]) -> str:
    return f"{row['variant']}: " + ", ".join(
        f"{each} {result['median_seconds'] * 1e3:.1f} ms" for each, result in row.items() if each != "variant"
    )


class _Worker:
    """A contender's process: see `bench_worker`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ready = self._read()
        self._seconds: list[float] = []

    @classmethod
    @contextlib.contextmanager
    def start(cls, contender: str, variant: str) -> Iterator["_Worker"]:
        arguments = [contender, variant, str(VARIANTS[variant].batch_size)]
        with subprocess.Popen(
            [sys.executable, "-m", "experiments.bench_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def step(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self._seconds.append(self._read()["seconds"])

    def result(self) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.close()
        return {
            "median_seconds": statistics.median(self._seconds),
            "seconds": [round(seconds, 5) for seconds in self._seconds],
            "first_step_seconds": self._ready["first_step_seconds"],
            "peak_bytes": self._read()["peak_bytes"],
        }

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise UserError("a contender's process ended early; what it printed above says why")
        return json.loads(line)


def epoch(config: EpochCost) -> dict[str, Any]:
    """Three ways to take the same steps, in turns; the same state all along, so that their work is the same."""
    from experiments.session import prepare

    prepare()
    import jax
    import numpy as np

    from experiments.arcloss import build_optimizer
    from jaxnets import ArcFace, MarginHead, create, create_train_state, load, train_epoch, train_step
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
    single = jax.jit(train_step)
    scan = jax.jit(take_steps, static_argnames=("batch_size", "steps"))
    batches = [
        jax.device_put(Split(np.asarray(split.images[i : i + size]), np.asarray(split.labels[i : i + size])))
        for i in range(0, size * config.steps, size)
    ]

    def steps_alone() -> float:
        seconds = 0.0
        for batch in batches:
            before = time.perf_counter()
            jax.block_until_ready(single(state, batch))
            seconds += time.perf_counter() - before
        return seconds

    def whole_epoch() -> float:
        copy = jax.tree.map(lambda leaf: leaf.copy(), state)
        before = time.perf_counter()
        train_epoch(copy, split, size)
        return time.perf_counter() - before

    def one_scan() -> float:
        before = time.perf_counter()
        order = epoch_order(state.key, 0, split.labels.shape[0])
        out = scan(state, Totals.zero(), split, order, np.int32(0), batch_size=size, steps=config.steps)
        jax.block_until_ready(out)
        return time.perf_counter() - before

    ways = {"steps alone": steps_alone, "train_epoch": whole_epoch, "one scan": one_scan}
    for take in ways.values():
        take()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.rounds):
        for name, take in ways.items():
            seconds[name].append(take())
    table = Table("way", "a step", "against the steps alone", title=f"{config.steps} steps of {config.variant}")
    alone = seconds["steps alone"]
    rows = []
    for name, times in seconds.items():
        ratio = statistics.median(t / a for t, a in zip(times, alone, strict=True))
        median = statistics.median(times)
        rows.append({"way": name, "median_seconds": median, "ratio": ratio, "seconds": times})
        table.add_row(name, f"{median / config.steps * 1e3:.1f} ms", f"{ratio:.3f}")
    Console().print(table)
    return {"variant": config.variant, "steps": config.steps, "rows": rows}


def start(config: Start) -> dict[str, Any]:
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


def command(config: Step | EpochCost | Start) -> None:
    match config:
        case Step():
            result = step(config)
        case EpochCost():
            result = epoch(config)
        case _:
            result = start(config)
    arguments = " ".join(sys.argv[1:])
    if config.out:
        record = {"command": f"python -m experiments.bench {arguments}", "environment": environment(), **result}
        write_json(config.out, record)
        print(f"written to {config.out}")


if __name__ == "__main__":
    main(lambda: command(parse(Command, "python -m experiments.bench")))
