"""The command line of the ArcLoss study."""

import dataclasses
from typing import Annotated

import tyro

from experiments.arcloss.variants import VARIANTS
from experiments.run.options import (
    DATA,
    MarginOptions,
    OptionalInt,
    RunOptions,
    check_counts,
    check_name,
    check_seed,
    choice,
)


@dataclasses.dataclass(frozen=True)
class VariantOptions:
    variant: Annotated[str, tyro.conf.arg(metavar=choice((*VARIANTS, "all")))] = "v1_2_3"
    """one of the twelve, which --list describes, or all"""
    seeds: int = 1
    """train with so many seeds, one after the other, from --seed on"""
    list: bool = False
    """print the twelve with the study's verdicts, and stop"""


@dataclasses.dataclass(frozen=True)
class Config(RunOptions, MarginOptions, VariantOptions):  # the options of the last come first in --help
    """Train a variant of the ArcLoss study on MNIST, and draw its two-dimensional features after every epoch."""

    data: Annotated[str, tyro.conf.arg(metavar=DATA)] = "mnist"
    """mnist is bundled; idx: takes a folder in MNIST's format, folder: one of pictures in a folder for each class"""
    size: OptionalInt = None
    """height and width to which pictures are brought; by default 28 for folder: and faces, their own for tfds:"""
    epochs: int = 10
    """passes over the training images; the study itself ran about 100"""
    batch_size: OptionalInt = None
    """examples a step; by default the variant's, 256 or 512"""

    @property
    def picture_size(self) -> int | None:
        """The size to load the data with; None leaves images as they are."""
        return 28 if self.size is None and self.data.startswith(("folder:", "faces")) else self.size

    @property
    def names(self) -> tuple[str, ...]:
        """The variants to train."""
        return tuple(VARIANTS) if self.variant == "all" else (self.variant,)

    def check(self) -> None:
        """Refuses bad options before JAX is imported.

        Raises:
          UserError: naming the option.
        """
        check_name("variant", self.variant, [*VARIANTS, "all"])
        RunOptions.check(self)
        check_counts(self, ("seeds",))
        check_seed(self.seed + self.seeds - 1)
        MarginOptions.check(self)
