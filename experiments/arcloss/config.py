"""The command line of the ArcLoss study."""

import dataclasses

from experiments.arcloss.variants import VARIANTS
from experiments.run.options import MarginOptions, RunOptions, check_name


@dataclasses.dataclass(frozen=True)
class VariantOptions:
    variant: str = "v1_2_3"
    """one of the twelve (see --list), or all"""
    list: bool = False
    """print the twelve with the study's verdicts, and stop"""


@dataclasses.dataclass(frozen=True)
class Config(RunOptions, MarginOptions, VariantOptions):  # the options of the last come first in --help
    """Train a variant of the ArcLoss study on MNIST, and draw its two-dimensional features after every epoch."""

    data: str = "mnist"
    """mnist (bundled), idx:DIRECTORY (any folder in MNIST's format) or tfds:NAME"""
    epochs: int = 10
    """the study itself ran about 100"""

    @property
    def names(self) -> tuple[str, ...]:
        """The variants to train."""
        return tuple(VARIANTS) if self.variant == "all" else (self.variant,)

    def check(self) -> None:
        """Refuses what can be refused before JAX is imported.

        Raises:
          UserError: naming the option.
        """
        check_name("variant", self.variant, [*VARIANTS, "all"])
        RunOptions.check(self)
        MarginOptions.check(self)
