"""The one reader of the files that runs write: it checks types, sizes and agreement, and reports damage."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from experiments.run.records import Damaged, read_json, read_lines
from jaxnets.files import read_regular
from jaxnets.naming import quoted

Arrays: TypeAlias = Mapping[str, np.ndarray]
Line: TypeAlias = dict[str, Any]  # of metrics.jsonl

NUMBERS = (
    "train_loss",
    "test_loss",
    "learning_rate",
    "train_accuracy",
    "test_accuracy",
    "seconds",
    "images_per_second",
)
# The entry of a line that tells the better epoch, in words: of a study of classes that training saw, and of one of
# classes that it never saw, whose test has no loss and no accuracy.
SCORES = {"test_accuracy": "test accuracy", "map_at_r": "MAP@R"}
GAPS = ("smallest_gap_degrees", "largest_gap_degrees")
_LARGEST_ARRAYS = 2**32  # bytes of an epoch's file


def read_begun(path: Path) -> dict[str, Any]:
    """A config.json as {"config", "environment", "command"}; the latter two are for people, and may be missing.

    Raises:
      Damaged: the file is not as a run writes it.
      OSError: the file cannot be read.
    """
    found: dict[str, Any] = {"environment": {}, "command": "", **read_json(path)}
    for name, kind in (("config", dict), ("environment", dict), ("command", str)):
        if not isinstance(found.get(name), kind):
            raise Damaged(path, f"{name!r} is not as a run writes it")
    return found


def check_network(config: Mapping[str, Any], path: Path, known: tuple[str, ...]) -> None:
    """Refuses a configuration without a network, a shape of images and names of classes."""
    variant, shape, classes = (config.get(name) for name in ("variant", "image_shape", "classes"))
    if not (isinstance(variant, str) and variant in known):
        raise Damaged(path, "its variant is no network's name")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
        raise Damaged(path, "its image_shape is none")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise Damaged(path, "its classes are no names")


def read_metrics(path: Path, epochs: int = 0) -> list[Line]:
    """The lines of a metrics.jsonl, one for each epoch in order; none where there is no file.

    Args:
      path: the file.
      epochs: that a checkpoint says have ended: there must be as many lines, or more.

    Raises:
      Damaged: the file is not as a run writes it.
      OSError: the file cannot be read.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if line.get("epoch") != number:
            raise Damaged(path, f"line {number} is not of epoch {number}")
        score = score_of(line)
        numbers = NUMBERS if score == "test_accuracy" else (*(name for name in NUMBERS if "test" not in name), score)
        if line.keys() != lines[0].keys() or not all(_is_number(line.get(name)) for name in numbers):
            raise Damaged(path, f"line {number} lacks a number")
        if not 0 <= line[score] <= 1:
            raise Damaged(path, f"line {number} has a {SCORES[score]} outside of 0 … 1")
        if "verdict" in line and not _has_verdict(line):
            raise Damaged(path, f"line {number} lacks its verdict or its gaps")
    if len(lines) < epochs:
        raise Damaged(path, f"it has {len(lines)} of the {epochs} epochs that the checkpoint says have ended")
    return lines


def score_of(line: Line) -> str:
    """The key in `SCORES` that a line has."""
    return "map_at_r" if "map_at_r" in line else "test_accuracy"


def read_summary(path: Path) -> Line:
    """A summary.json; empty where there is none.

    Raises:
      Damaged: the file is not as a run writes it.
      OSError: the file cannot be read.
    """
    if not path.exists():
        return {}
    summary = read_json(path)
    kinds = {"epochs": int, "epoch": int, "step": int, "last": dict, "best": dict, "verdict": str | None}
    for name, kind in kinds.items():
        if name in summary and not isinstance(summary[name], kind):
            raise Damaged(path, f"{name!r} is not as a run writes it")
    return summary


def read_arrays(path: Path) -> Arrays:
    """The arrays of an epoch's .npz, as `numpy.savez` writes them.

    Raises:
      Damaged: the file is not as a run writes it; its checksums tell.
      OSError: the file cannot be read.
    """
    content = read_regular(path, limit=_LARGEST_ARRAYS)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("it is compressed")  # so that it may hold more than its size says
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except Exception as error:  # each part of the format has its own for damage
        raise Damaged(path, quoted(error, 100) or type(error).__name__) from error


def _array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError("it has arrays of another version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it has arrays of objects")
    array = np.frombuffer(content, dtype, offset=file.tell()).copy()
    return array.reshape(shape, order="F" if is_fortran else "C")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_verdict(line: Line) -> bool:
    gaps = line.get("separability")
    return (
        isinstance(line["verdict"], str)
        and isinstance(gaps, dict)
        and all(name in gaps and (gaps[name] is None or _is_number(gaps[name])) for name in GAPS)
    )
