"""A trained network as one file that runs without this project: ONNX, or JAX's serialised StableHLO.

python -m experiments.export runs/arcloss/v1_2_3/seed0 v1_2_3.onnx
python -m experiments.export resnet18.safetensors resnet18.stablehlo --model resnet18
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Annotated

import tyro

from experiments.run.options import Inputs, OptionalStr, choice
from experiments.run.session import prepare
from experiments.run.terminal import UserError, as_user_error, main, parse

KINDS = (".onnx", ".stablehlo")
OUTPUTS = ("scores", "embeddings")
PROG = "python -m experiments.export"
EXAMPLES = ("runs/arcloss/v1_2_3/seed0 v1_2_3.onnx", "resnet18.safetensors resnet18.stablehlo --model resnet18")


@dataclasses.dataclass(frozen=True)
class Config:
    """Write a trained network as one file, of images as uint8 [N, H, W, C] in 0 … 255, for any N."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """a run's folder, or a .safetensors or .pth file"""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """the file to write: .onnx, or .stablehlo"""
    model: OptionalStr = None
    """the network of a weights file; a run's folder knows its own"""
    what: Annotated[str, tyro.conf.arg(metavar=choice(OUTPUTS))] = OUTPUTS[0]
    """the outputs; with a margin head, scores are the cosines to its classes"""
    inputs: Inputs = "auto"
    """of a file: imagenet takes ImageNet's mean from the images and divides by its standard deviation, as torchvision's
    weights expect; plain has them in [0, 1]; auto takes imagenet where the file tells 1,000 classes"""


def command(config: Config) -> None:
    if config.target.suffix not in KINDS:
        from jaxnets.naming import quoted  # imports JAX

        raise UserError(
            f"{quoted(config.target)} ends in neither {' nor '.join(KINDS)}, the two kinds of file that are written"
        )
    if config.what not in OUTPUTS:
        raise UserError(f"--what is {' or '.join(OUTPUTS)}, not {config.what!r}")
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing and config.target.suffix == ".onnx":
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install 'jaxnets[onnx]'")
    prepare()
    from experiments.trained import exporting, network  # JAX is imported from here on, not for --help
    from jaxnets.naming import quoted

    trained = network.load(config.source, config.model, config.inputs)
    with as_user_error(ValueError), as_user_error(NotImplementedError):
        report = exporting.write(trained.program(config.what), config.target)
    print(
        f"{quoted(config.target)}: {trained.name} from {trained.origin}; images, uint8 {report.images} in 0 … 255, "
        f"to {config.what}, float32 {report.outputs}; {report.size:,} bytes; "
        f"{report.difference:.0e} of the largest value away from the network's own"
    )


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES)))
