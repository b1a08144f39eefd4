"""The workloads: networks, the images they are given, and the experiments they are trained in."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.arcloss.variants import VARIANTS
from experiments.run.terminal import UserError

if TYPE_CHECKING:
    from experiments.run.experiment import Experiment
    from jaxnets.data import Dataset


@dataclasses.dataclass(frozen=True)
class Workload:
    """A variant's or a network's name; its images are uint8 [batch_size, size, size, channels]."""

    name: str
    batch_size: int
    size: int = 28
    channels: int = 1


WORKLOADS = {variant.name: Workload(variant.name, variant.batch_size) for variant in VARIANTS.values()} | {
    "mynn": Workload("mynn", 64, size=224, channels=3)
}


def workloads(names: tuple[str, ...]) -> list[Workload]:
    """By their names; `all` are the variants of the ArcLoss study.

    Raises:
      UserError: there is no name, or an unknown one.
    """
    if names == ("all",):
        names = tuple(VARIANTS)
    if not names:
        raise UserError(f"no name of a network to measure is given; there is {', '.join(WORKLOADS)}")
    for name in names:
        check_name(name)
    return [WORKLOADS[name] for name in names]


def check_name(name: str) -> None:
    if name not in WORKLOADS:
        raise UserError(f"there is no network {name!r} to measure; there is {', '.join(WORKLOADS)}")


def trainings(
    name: str, data: str | None, size: int, batch_size: int | None, epochs: int, steps_per_epoch: int | None
) -> tuple["Dataset", Callable[[int], "Experiment"]]:
    """The data of a study, and its experiment for a seed, as its own command builds it; None is its default."""
    shared: dict[str, Any] = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    if name == "mynn":
        from experiments.mynn import study as gender_study
        from experiments.mynn.config import Config as GenderConfig
        from experiments.run.pictures import load as load_pictures

        config = GenderConfig(data=data or "faces", size=size, batch_size=batch_size or 64, **shared)
        pictures = load_pictures(config.data, size=size)
        return pictures, lambda seed: gender_study.build("mynn", dataclasses.replace(config, seed=seed), pictures)
    from experiments.arcloss import study
    from experiments.arcloss.config import Config
    from jaxnets import load

    of_variant = Config(name, data=data or "mnist", batch_size=batch_size, **shared)
    digits = load(of_variant.data, size=of_variant.picture_size)
    return digits, lambda seed: study.build(VARIANTS[name], dataclasses.replace(of_variant, seed=seed), digits)
