"""The options that every study's command takes, and checks of options."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from experiments.run.terminal import UserError

# Options whose default is said in their help, and not as "None".
OptionalInt: TypeAlias = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
OptionalFloat: TypeAlias = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
OptionalStr: TypeAlias = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
OptionalPath: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]

Inputs: TypeAlias = Literal["auto", "imagenet", "plain"]
DATA = "mnist|faces|idx:DIRECTORY|folder:PATH|tfds:NAME|recordio:DIRECTORY|tar:PATH"
MARGINS = (
    *("arcface", "cosface", "sphereface", "combined", "normface", "tutorial", "adaface", "curricularface"),
    *("magface", "elastic_arcface", "elastic_cosface", "adacos", "sphereface2", "uniface"),
)
NUMBERS = ("m", "m1", "m2", "m3", "h", "beyond", "std", "l_m", "u_m", "l_a", "u_a", "weight", "balance", "t")  # of one
BEYOND = ("classic", "smooth", "rising")


def choice(names: Sequence[str]) -> str:
    """Names to choose from, as --help shows them."""
    return f"{{{','.join(names)}}}"


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run, the same for each study; a study's own options inherit them."""

    data: Annotated[str, tyro.conf.arg(metavar=DATA)] = "mnist"
    """the images to train and test on"""
    size: OptionalInt = None
    """height and width to which the pictures of faces, folder:, tfds:, recordio: and tar: are brought"""
    skip_unreadable: bool = False
    """leave out pictures that cannot be read, and name them"""
    epochs: int = 10
    """passes over the training images"""
    batch_size: OptionalInt = None
    """examples a step"""
    steps_per_epoch: OptionalInt = None
    """stop each epoch after this many batches"""
    seed: int = 0
    """decides the initial weights and the order of the images"""
    out: Path = Path("runs")
    """folder for the runs: each is in OUT/STUDY/NETWORK/seedSEED"""
    devices: int = 1
    """number of devices for data-parallel training, in each process"""
    processes: OptionalInt = None
    """train in so many processes on this machine; under SLURM, Open MPI or Kubernetes the launcher has started them"""
    fresh: bool = False
    """delete the run in the folder and start over, instead of going on with it"""
    keep_memory: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """give freed memory back to the system after each step; by default it is kept on Linux: faster on a CPU"""
    verbose: bool = False
    """print the settings made before the run"""

    def check(self) -> None:
        """Refuses numbers outside their domain.

        Raises:
          UserError: naming the option.
        """
        check_counts(self, ("size", "epochs", "batch_size", "steps_per_epoch", "devices", "processes"))
        check_seed(self.seed)


@dataclasses.dataclass(frozen=True)
class MarginOptions:
    """Options of a head with an angular margin."""

    margin: Annotated[str, tyro.conf.arg(metavar=choice(MARGINS))] = "arcface"
    """the angular margin between an image and its own class, or the loss that has it; --m to --t are its numbers"""
    m: OptionalFloat = None
    """the margin, in radians where it is an angle; by default 0.3 for arcface, the margin's own for others"""
    m1: OptionalFloat = None
    """of --margin combined: the factor on the angle"""
    m2: OptionalFloat = None
    """of --margin combined: the radians added to the angle"""
    m3: OptionalFloat = None
    """of --margin combined: the number taken from the cosine"""
    h: OptionalFloat = None
    """of --margin adaface: how far the margin follows an embedding's length; by default 0.333"""
    beyond: Annotated[str | None, tyro.conf.arg(metavar=choice(BEYOND), help_behavior_hint="")] = None
    """of --margin arcface, for angles past π − m; by default classic"""
    std: OptionalFloat = None
    """of --margin elastic_arcface and elastic_cosface: the margins' deviation; by default 0.0125"""
    l_m: OptionalFloat = None
    """of --margin magface: the margin of the shortest embeddings; by default 0.45"""
    u_m: OptionalFloat = None
    """of --margin magface: the margin of the longest; by default 0.8"""
    l_a: OptionalFloat = None
    """of --margin magface: the length of the shortest; by default 10"""
    u_a: OptionalFloat = None
    """of --margin magface: the length of the longest; by default 110"""
    weight: OptionalFloat = None
    """of --margin magface: the factor of the penalty for short embeddings, by default 35; of sphereface2: the factor of
    the loss, by default 50"""
    balance: OptionalFloat = None
    """of --margin sphereface2: the share of the positive term, by default 0.7; of uniface: the factor of the negative
    ones, by default 1"""
    t: OptionalFloat = None
    """of --margin sphereface2: the exponent that spreads the cosines; by default 3"""
    margin_grad: Literal["exact", "straight_through"] = "exact"
    """straight_through keeps the loss but leaves the margin out of the gradient, as arcface_torch does"""
    min_norm: float = 1.0
    """shorter embeddings get the gradient of embeddings of this length; 0: exact gradients, unsteady training"""
    subcenters: int = 1
    """directions for each class; an image belongs to the nearest one"""
    s: OptionalFloat = None
    """the scale; by default AdaCos's √2·ln(classes − 1), twice that for uniface, 10 for tutorial, 40 for sphereface2;
    adacos has its own"""

    def check(self) -> None:
        """Refuses numbers outside their domain.

        Raises:
          UserError: naming the option.
        """
        check_counts(self, ("subcenters",))
        if self.s is not None and not (math.isfinite(self.s) and self.s > 0):
            raise UserError(f"--s must be a positive number, not {self.s}")
        if not (math.isfinite(self.min_norm) and self.min_norm >= 0):
            raise UserError(f"--min-norm must be a finite number of 0 or more, not {self.min_norm}")


def check_counts(config: Any, names: tuple[str, ...]) -> None:
    """Refuses options that count something and are below one; None is none given."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")


def check_rates(config: Any) -> None:
    """Refuses a --lr that is no learning rate, and an --averaging that is no share; None is none given."""
    if config.lr is not None and not (math.isfinite(config.lr) and config.lr > 0):
        raise UserError(f"--lr must be a positive number, not {config.lr}")
    if config.averaging is not None and not 0 <= config.averaging < 1:
        raise UserError(f"--averaging is the share of an average that a step keeps: in [0, 1), not {config.averaging}")


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuses a name that is none of the known ones, and says the nearest.

    Raises:
      UserError: such as "there is no margin 'arcfac'; did you mean 'arcface'?".
    """
    if name not in known:
        from jaxnets.naming import nearest  # jaxnets imports JAX, which --help does without

        raise UserError(f"there is no {kind} {name!r}{nearest(name, known)}")


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed must be in 0 … 2³² − 1, not {seed}")
