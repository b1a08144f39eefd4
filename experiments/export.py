"""A trained network as one file that runs without this project: ONNX, or JAX's serialised StableHLO.

python -m experiments.export runs/arcloss/v1_2_3/seed0 v1_2_3.onnx
python -m experiments.export resnet18.safetensors resnet18.stablehlo --model resnet18
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from experiments.run.options import OptionalStr
from experiments.run.terminal import UserError, as_user_error, main, parse

if TYPE_CHECKING:
    from jaxnets.export import Program

KINDS = (".onnx", ".stablehlo")
OUTPUTS = ("scores", "embeddings")
TOLERANCE = 1e-3  # of the largest value: faults in a program are far above it, and rounding far below


@dataclasses.dataclass(frozen=True)
class Config:
    """Write a trained network as one file, of images as uint8 [N, H, W, C] in 0 … 255, for any N."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """a run's folder, or a .safetensors or .pth file"""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """the file to write: .onnx, or .stablehlo"""
    model: OptionalStr = None
    """the network that a file's weights are of; a run's folder says so itself"""
    what: str = OUTPUTS[0]
    """scores (of a margin head the cosines to its classes), or embeddings"""


def command(config: Config) -> None:
    if config.target.suffix not in KINDS:
        raise UserError(
            f"{config.target} ends in neither {' nor '.join(KINDS)}, the two kinds of file that are written"
        )
    if config.what not in OUTPUTS:
        raise UserError(f"--what is {' or '.join(OUTPUTS)}, not {config.what!r}")
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing and config.target.suffix == ".onnx":
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install 'jaxnets[onnx]'")

    from experiments.run.session import prepare  # JAX is imported from here on, not for --help

    prepare()
    from experiments.trained import network as trained
    from jaxnets.files import write_atomically

    network = trained.load(config.source, config.model)
    with as_user_error(ValueError), as_user_error(NotImplementedError):
        program = network.program(config.what)
        content, run = (_onnx if config.target.suffix == ".onnx" else _stablehlo)(program)
    images = np.random.default_rng(0).integers(0, 256, (2, *program.image_shape), np.uint8)
    outputs, difference = check(program, run, images)
    write_atomically(config.target, content)
    taken, given = (f"[N, {', '.join(map(str, array.shape[1:]))}]" for array in (images, outputs))
    print(
        f"{config.target}: {network.name} from {network.origin}; images, uint8 {taken} in 0 … 255, to {config.what}, "
        f"float32 {given}; {len(content):,} bytes; {difference:.0e} of the largest value away from the network's own"
    )


def check(program: "Program", run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> tuple[np.ndarray, float]:
    """The network's outputs, and the largest difference of the exported program's, relative to the largest output.

    Raises:
      RuntimeError: where that is more than rounding.
    """
    import jax

    outputs = np.asarray(jax.jit(program.apply)(program.weights, images))
    largest = float(np.abs(outputs).max()) or 1.0
    difference = float(np.abs(run(images) - outputs).max()) / largest
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the exported program differs from the network by {difference:.0e}: nothing is written")
    return outputs, difference


def _onnx(program: "Program") -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    import onnxruntime

    from jaxnets.export import export_onnx

    content = export_onnx(program)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, lambda images: session.run([program.output], {"images": images})[0]


def _stablehlo(program: "Program") -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    from jaxnets.export import export_stablehlo, load_stablehlo

    content = export_stablehlo(program)
    run = load_stablehlo(content)
    return content, lambda images: np.asarray(run(images))


if __name__ == "__main__":
    main(lambda: command(parse(Config, "python -m experiments.export")))
