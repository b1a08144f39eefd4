"""A program as a file, checked against the network."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxnets.export import Program, export_onnx, export_stablehlo, load_stablehlo
from jaxnets.files import write_atomically

TOLERANCE = 1e-3  # of the largest value: faults in a program are far above it, and rounding far below


class Report(NamedTuple):
    """The shapes of the program's inputs and outputs, the file's size in bytes, and the difference to the network."""

    images: str
    outputs: str
    size: int
    difference: float


def write(program: Program, target: Path) -> Report:
    """Writes the program as ONNX or StableHLO, as the file's ending says, once its outputs equal the network's.

    Raises:
      ValueError, NotImplementedError: as the exporters and `check`.
      RuntimeError: where the outputs differ.
      OSError: where it cannot be written.
    """
    content, run = (_onnx if target.suffix == ".onnx" else _stablehlo)(program)
    images = np.random.default_rng(0).integers(0, 256, (2, *program.image_shape), np.uint8)
    outputs, difference = check(program, run, images)
    write_atomically(target, content)
    taken, given = (f"[N, {', '.join(map(str, array.shape[1:]))}]" for array in (images, outputs))
    return Report(taken, given, len(content), difference)


def check(program: Program, run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> tuple[np.ndarray, float]:
    """The network's outputs, and the largest difference of the exported program's, relative to the largest output.

    Raises:
      ValueError: where the network's own outputs are not finite: its weights are too large.
      RuntimeError: where the difference is more than rounding.
    """
    outputs = np.asarray(jax.jit(program.apply)(program.weights, images))
    if not np.isfinite(outputs).all():
        raise ValueError("the network's own outputs are not finite on images of noise: its weights are too large")
    largest = float(np.abs(outputs).max()) or 1.0
    difference = float(np.abs(run(images) - outputs).max()) / largest
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the exported program differs from the network by {difference:.0e}: nothing is written")
    return outputs, difference


def _onnx(program: Program) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    import onnxruntime

    content = export_onnx(program)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: session.run([program.output], {"images": images})[0]


def _stablehlo(program: Program) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    content = export_stablehlo(program)
    run = load_stablehlo(content)
    return content, lambda images: np.asarray(run(images))
