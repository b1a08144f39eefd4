"""A contender's process, and turns between several of them."""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

from experiments.bench.cases import Case
from experiments.terminal import UserError


def measure(case: Case, task: Literal["step", "inference"], contenders: list[str], rounds: int) -> dict[str, Any]:
    """A row: each contender takes `rounds` turns after a first one that does not count; the median counts."""
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Contender.start(name, task, case)) for name in contenders}
        for _ in range(rounds):
            for process in processes.values():
                process.take()
        return {"name": case.name} | {name: process.result() for name, process in processes.items()}


def contenders(*, compiled: bool) -> list[str]:
    """Ours, and PyTorch's where it is installed."""
    if not find_spec("torch"):
        return ["jaxnets"]
    return ["jaxnets", "torch", "torch.compile"] if compiled else ["jaxnets", "torch"]


class Contender:
    """A process that does one thing each time it is asked: see `experiments.bench.worker`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ready = self._read()
        self._seconds: list[float] = []

    @classmethod
    @contextlib.contextmanager
    def start(cls, name: str, task: str, case: Case) -> Iterator["Contender"]:
        with subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.worker", name, task, json.dumps(dataclasses.asdict(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def take(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("take\n")
        self._process.stdin.flush()
        self._seconds.append(self._read()["seconds"])

    def result(self) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.close()
        return {
            "median_seconds": statistics.median(self._seconds),
            "seconds": [round(seconds, 5) for seconds in self._seconds],
            **self._ready,
            **self._read(),
        }

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise UserError("a contender's process ended early; what it printed above says why")
        return json.loads(line)
