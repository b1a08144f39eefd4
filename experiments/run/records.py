"""The project's own small files, and the versions and hardware that every number carries."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.run.terminal import UserError
from jaxnets.files import read_regular, write_atomically
from jaxnets.naming import quoted

LARGEST = 2**26  # bytes of a file that is read whole


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


class Damaged(UserError):
    """One of the project's own files is not as the project writes it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{quoted(path)} is damaged ({reason}): put back a copy of it, or make it anew (a run with --fresh)"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      Damaged: where the file holds something else.
      OSError: where it cannot be read.
    """
    return _parsed(path, _text(path), "")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file, one a line; none where there is no file.

    Raises:
      Damaged: where the file holds something else.
      OSError: where it cannot be read.
    """
    if not path.exists():
        return []
    lines = _text(path).split("\n")
    if lines.pop():
        raise Damaged(path, "its last line is cut off")
    return [_parsed(path, line, f"line {number}: ") for number, line in enumerate(lines, 1)]


def _text(path: Path) -> str:
    try:
        return read_regular(path, limit=LARGEST).decode()
    except UnicodeDecodeError as error:
        raise Damaged(path, "it is no text") from error


def _parsed(path: Path, text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, or a number or nesting beyond Python's limits
        raise Damaged(path, f"{where}{quoted(error, 100)}") from error
    if not isinstance(value, dict):
        raise Damaged(path, f"{where}it is no object")
    return value


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of two configurations, each as 'name: before → now'."""
    return [
        f"{name}: {json.dumps(before.get(name))} → {json.dumps(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def environment() -> dict[str, Any]:
    """Versions and hardware, as every published number has to carry them."""
    devices = jax.devices()
    packages = ("jaxnets", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "commit": commit_of(Path(__file__)),
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cpu": _cpu_model(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def commit_of(file: Path) -> str | None:
    """The commit checked out around a file that it holds; None for an installed file, or where there is no git."""
    command = ["git", "-C", str(file.parent), "rev-parse", "HEAD", f"HEAD:./{file.name}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.split()[0] if found.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
