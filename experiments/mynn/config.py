"""The command line of the gender study."""

import dataclasses
from typing import Annotated, Literal

import tyro

from experiments.run.options import (
    DATA,
    Inputs,
    OptionalFloat,
    OptionalInt,
    OptionalPath,
    RunOptions,
    check_name,
    check_rates,
    choice,
)
from experiments.run.terminal import UserError

NETWORKS = ("mynn", "resnet18", "resnet50", "regnet_x_400mf", "mobilenet_v2", "vgg16")  # that the study compares
MODELS = (*NETWORKS, "mynn_relu", "mynn_deep", "all")
DEFAULT_SIZE = 224  # of pictures


@dataclasses.dataclass(frozen=True)
class ClassifierOptions:
    model: Annotated[str, tyro.conf.arg(metavar=choice(MODELS))] = "mynn"
    """the network; all compares the study's six"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd has momentum 0.9"""
    lr: OptionalFloat = None
    """the learning rate; by default 0.01 for sgd and 0.001 for adam"""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine falls to zero over the whole run"""
    augment: bool = False
    """flip, crop and colour the training pictures at random"""
    averaging: OptionalFloat = None
    """evaluate the running average of the weights; each step keeps this share of it, for example 0.999"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of the network's computation; weights stay float32"""
    pretrained: OptionalPath = None
    """start from the weights in a .pth or .safetensors file; a last layer of another shape is not taken from it"""
    inputs: Inputs = "auto"
    """of --pretrained: imagenet takes ImageNet's mean from the images and divides by its standard deviation, as
    torchvision's weights expect; plain has them in [0, 1]; auto takes imagenet where the file tells 1,000 classes"""
    stream: bool = False
    """decode pictures of folder:, tfds:, recordio: or tar: as they are needed, for sets that do not fit on the disk"""


@dataclasses.dataclass(frozen=True)
class Config(RunOptions, ClassifierOptions):  # the options of the last come first in --help
    """Train a classifier of the gender study, and draw its curves and its mistakes."""

    data: Annotated[str, tyro.conf.arg(metavar=DATA)] = "faces"
    """faces are drawn by this program; folder: takes pictures in a folder for each class, tfds: celeb_a, for one"""
    size: OptionalInt = None
    """height and width to which pictures are brought; by default 224, but for mnist and idx:, which keep theirs"""
    epochs: int = 10
    """passes over the training pictures; the study itself ran 50"""
    batch_size: int = 64
    """examples a step"""

    @property
    def picture_size(self) -> int | None:
        """The size to load the data with; None leaves images as they are."""
        return DEFAULT_SIZE if self.size is None and not self.data.startswith(("mnist", "idx:")) else self.size

    @property
    def names(self) -> tuple[str, ...]:
        """The networks to train."""
        return NETWORKS if self.model == "all" else (self.model,)

    def check(self) -> None:
        """Refuses bad options before JAX is imported.

        Raises:
          UserError: naming the option.
        """
        check_name("model", self.model, MODELS)
        RunOptions.check(self)
        check_rates(self)
        is_stored = self.data.startswith(("folder:", "tfds:", "recordio:", "tar:"))
        if self.stream and not is_stored:
            raise UserError("--stream is for --data folder:PATH, tfds:NAME, recordio:DIRECTORY or tar:PATH")
        if self.pretrained is not None and self.model == "all":
            raise UserError("--pretrained holds the weights of one network: give its name with --model, not all")
        if self.pretrained is not None and not self.pretrained.exists():
            raise UserError(f"--pretrained {str(self.pretrained)[:300]!r}: there is no such file; give the path of one")
