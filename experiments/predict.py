"""A trained network's classes for the user's pictures.

python -m experiments.predict runs/arcloss/v1_2_3/seed0 digit.png
python -m experiments.predict resnet18.safetensors --model resnet18 faces/*.jpg
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.run.options import Inputs, OptionalStr
from experiments.run.session import prepare
from experiments.run.terminal import UserError, main, parse

PROG = "python -m experiments.predict"
EXAMPLES = ("runs/arcloss/v1_2_3/seed0 digit.png", "resnet18.safetensors --model resnet18 faces/*.jpg")


@dataclasses.dataclass(frozen=True)
class Config:
    """Print the class of each picture, with the cosine and the angle to the nearest class and the runner-up."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """a run's folder, or a .safetensors or .pth file"""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """pictures of any size; transparent pixels count as white"""
    model: OptionalStr = None
    """the network of a weights file; a run's folder knows its own"""
    top: int = 2
    """number of classes to print for each picture"""
    invert: bool = False
    """make dark light and light dark: MNIST's digits are white on black"""
    stretch: bool = False
    """stretch each picture's contrast to the whole range from black to white"""
    inputs: Inputs = "auto"
    """of a file: imagenet takes ImageNet's mean from the images and divides by its standard deviation, as torchvision's
    weights expect; plain has them in [0, 1]; auto takes imagenet where the file tells 1,000 classes"""


def command(config: Config) -> None:
    if not config.images:
        raise UserError("name the pictures after the run or file; see python -m experiments.predict --help")
    if config.top < 1:
        raise UserError(f"--top must be 1 or more, not {config.top}")
    prepare()
    from experiments.trained import network, pictures, predictions  # JAX is imported from here on, not for --help

    for path in config.images:
        pictures.check(path)
    trained = network.load(config.source, config.model, config.inputs)
    options = {"invert": config.invert, "stretch": config.stretch}
    has_angles, program = trained.class_weights is not None, trained.program("scores")
    found = [*predictions.predict(program, config.images, top=config.top, has_angles=has_angles, **options)]
    predictions.show(trained, config.images, found)
    predictions.notes(trained, config.images, found, **options)


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES)))
