"""The command line of recognition."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.run.options import (
    MARGINS,
    NUMBERS,
    MarginOptions,
    OptionalFloat,
    OptionalInt,
    RunOptions,
    check_counts,
    check_name,
    check_rates,
    choice,
)
from experiments.run.terminal import UserError

OPEN_SETS = "glyphs|glyphs:DIRECTORY|identities:PATH"
# The losses of --margin all: without special cases of these, and without losses that nobody would choose.
COMPARED = tuple(name for name in MARGINS if name not in ("combined", "tutorial"))


UNSHARDED = ("adacos", "sphereface2", "uniface")  # without a head whose classes are split


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = "v1_2_3"
    """a network of jaxnets.models: a variant of the ArcLoss study (v0 … v2_1), mynn, mynn_relu, mynn_deep, resnet18,
    resnet50, regnet_x_400mf, mobilenet_v2, vgg16, iresnet18, iresnet34, iresnet50, iresnet100"""
    embedding: int = 128
    """dimensions of an embedding"""
    embedding_norm: bool = False
    """a BatchNorm of fixed scale after the embedding, as ArcFace's recipe has it"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of the network's computation; weights stay float32"""
    augment: bool = False
    """change the training pictures at random: drawings by turning, shearing, other strokes, blur and occlusion,
    pictures in colour by mirroring, cropping and colour"""
    elastic: float = 0.0
    """of --augment, for drawings: also bend them, by random displacements of up to this deviation, a share of the side;
    0.03 is visible"""


@dataclasses.dataclass(frozen=True)
class ClassOptions:
    shard_classes: bool = False
    """split the class weights, and the optimiser's arrays of them, over the devices: for more classes than one holds"""
    sample: OptionalFloat = None
    """of --shard-classes: the share of the classes that a step compares its pictures with, as Partial FC does"""


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd has momentum 0.9"""
    lr: OptionalFloat = None
    """the highest learning rate; by default 0.1 for sgd and 0.001 for adamw"""
    warmup: float = 1.0
    """epochs in which the rate rises to it; from there it falls to zero as a cosine"""
    weight_decay: float = 5e-4
    """for kernels and class weights; biases, norms and slopes are spared"""
    clip: float = 5.0
    """the largest norm of the network's gradient; 0 clips none"""
    averaging: OptionalFloat = None
    """evaluate the running average of the weights; each step keeps this share of it, for example 0.999"""


@dataclasses.dataclass(frozen=True)
class Config(
    RunOptions, OptimizerOptions, ClassOptions, MarginOptions, NetworkOptions
):  # the last come first in --help
    """Train embeddings on some identities, and judge them on others: retrieval, verification, identification."""

    data: Annotated[str, tyro.conf.arg(metavar=OPEN_SETS)] = "glyphs"
    """printed characters, in matplotlib's fonts or a folder's; the test has unseen characters in unseen fonts.
    A folder may have the fonts of either side in train and test, enrolled ones in test/gallery, and characters.txt.
    identities: takes pictures in a folder for each class, of which a quarter are for the test, or PATH/train and
    PATH/test; PATH/pairs.txt, in LFW's format, has pairs to verify; PATH/train.rec is RecordIO"""
    size: OptionalInt = None
    """height and width of the pictures; by default 32, and 112 for identities:"""
    epochs: int = 20
    """passes over the training pictures"""
    batch_size: int = 128
    """examples a step"""
    margin: Annotated[str, tyro.conf.arg(metavar=choice((*MARGINS, "all")))] = "arcface"
    """the angular margin between a picture and its own class, or the loss that has it; --m to --t are its numbers; all
    compares twelve, each with its default numbers"""
    min_norm: float = 0.0
    """shorter embeddings get the gradient of embeddings of this length; 0: exact gradients"""
    out: Path = Path("runs")
    """folder for the runs: each is in OUT/recognition/NETWORK/MARGIN/seedSEED"""

    @property
    def margins(self) -> tuple[str, ...]:
        """The margins to train with; with --s all of them have that scale."""
        compared = tuple(
            name
            for name in COMPARED
            if (name != "adacos" or self.s is None) and not (self.shard_classes and name in UNSHARDED)
        )
        return compared if self.margin == "all" else (self.margin,)

    def check(self) -> None:
        """Refuses bad options before JAX is imported.

        Raises:
          UserError: naming the option.
        """
        RunOptions.check(self)
        check_counts(self, ("embedding",))
        MarginOptions.check(self)
        if self.embedding_norm and self.model.startswith("iresnet"):
            raise UserError(f"--embedding-norm is for networks without one: {self.model} ends in such a BatchNorm")
        check_name("margin", self.margin, (*MARGINS, "all"))
        for name in NUMBERS:
            if self.margin == "all" and getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is a number of one margin: give that with --margin, not all")
        check_rates(self)
        if self.sample is not None and not self.shard_classes:
            raise UserError("--sample is of --shard-classes: give that too")
        if self.sample is not None and not 0 < self.sample <= 1:
            raise UserError(f"--sample is a share of the classes, in (0, 1], not {self.sample}")
        if self.shard_classes and self.margin in UNSHARDED:
            raise UserError(f"--shard-classes is not for --margin {self.margin}, which needs all classes in one place")
        if not 0 <= self.elastic <= 1:
            raise UserError(f"--elastic is a share of the side, in [0, 1], not {self.elastic}")
        if self.elastic and not self.augment:
            raise UserError("--elastic is a part of the augmentation: give --augment too")
        if not 0 <= self.warmup < self.epochs:
            raise UserError(f"--warmup must be 0 epochs or more and less than --epochs, not {self.warmup}")
        for name in ("weight_decay", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--{name.replace('_', '-')} must be a finite number of 0 or more, not {value}")
