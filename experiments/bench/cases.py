"""What is measured: a network, the images it is given, and how many at once."""

import dataclasses

from experiments.terminal import UserError
from experiments.variants import VARIANTS


@dataclasses.dataclass(frozen=True)
class Case:
    """`name` is a variant's or a network's; images are [batch_size, size, size, channels]."""

    name: str
    batch_size: int
    size: int = 28
    channels: int = 1


CASES = {variant.name: Case(variant.name, variant.batch_size) for variant in VARIANTS.values()} | {
    "mynn": Case("mynn", 64, size=224, channels=3)
}


def cases(names: tuple[str, ...]) -> list[Case]:
    """The named ones; `all` are the variants of the ArcLoss study."""
    if names == ("all",):
        names = tuple(VARIANTS)
    if not names:
        raise UserError(f"there is nothing named to measure; there is {', '.join(CASES)}")
    for name in names:
        if name not in CASES:
            raise UserError(f"there is nothing called {name!r} to measure; there is {', '.join(CASES)}")
    return [CASES[name] for name in names]
