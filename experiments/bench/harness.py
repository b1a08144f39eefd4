"""How everything here is measured: contenders take turns, the median counts, memory is counted by the system."""

import abc
import contextlib
import ctypes
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.run.terminal import UserError

Task = Callable[[], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement(abc.ABC):
    """A subcommand of `python -m experiments.bench`: its fields are the options."""

    out: Path | None = None
    """write the result as JSON"""

    @abc.abstractmethod
    def run(self) -> dict[str, Any]:
        """Measures, prints a table, and returns the same as JSON can hold it."""


def in_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each contender reports, `rounds` times in turns; a first round does not count.

    >>> count = iter(range(4))
    >>> in_turns({"a": lambda: next(count) * 1.0, "b": lambda: 7.0}, 3)
    {'a': [1.0, 2.0, 3.0], 'b': [7.0, 7.0, 7.0]}
    """
    for take in contenders.values():
        take()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, take in contenders.items():
            seconds[name].append(take())
    return seconds


def seconds_of(task: Task) -> float:
    before = time.perf_counter()
    task()
    return time.perf_counter() - before


def median_seconds(task: Task, rounds: int) -> float:
    """Of `rounds` calls after a first one that does not count."""
    return statistics.median(in_turns({"it": lambda: seconds_of(task)}, rounds)["it"])


class TimedProcess:
    """`python -m MODULE ARGUMENTS…` as a contender: it does its task once for each line that it is sent.

    It prints a line of JSON when it is ready, {"seconds": …} after each task, and a last line when its input ends.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ready = self._read()

    @classmethod
    @contextlib.contextmanager
    def start(cls, *words: str) -> Iterator["TimedProcess"]:
        command = [sys.executable, "-m", *words]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def take(self) -> float:
        assert self._process.stdin
        self._process.stdin.write("take\n")
        self._process.stdin.flush()
        return self._read()["seconds"]

    def end(self) -> dict[str, Any]:
        """Its two messages, the one when it was ready and the one now, together."""
        assert self._process.stdin
        self._process.stdin.close()
        return self._ready | self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise UserError("a contender's process ended early; its message above says why")
        return json.loads(line)


def said_by(module: str, job: str, *, limit: int, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The last line that `python -m MODULE JOB` prints, which is JSON; or {"refused": the reason that there is none}.

    Args:
      limit: seconds that it may take.
      environment: variables for it, beside this process's.
    """
    command = [sys.executable, "-m", module, job]
    variables = os.environ | (environment or {})
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=variables)
    except subprocess.TimeoutExpired:
        return {"refused": f"not done within {limit} s"}
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        return {"refused": said[-1] if said else f"ended with {ended.returncode}: out of memory, most likely"}
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def memory_before() -> int:
    """The bytes this process holds after memory freed by compilation is given back; the peak is counted anew."""
    if not sys.platform.startswith("linux"):
        return 0
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory_of_process("VmRSS")


def memory_of_process(name: str) -> int:
    """A line of Linux's /proc/self/status (VmRSS, VmHWM) in bytes; 0 on another system."""
    if not sys.platform.startswith("linux"):
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
