"""A training on identities beside the same in PyTorch and pytorch-metric-learning, judged on unseen identities."""

import dataclasses
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.arcloss.variants import VARIANTS
from experiments.bench.harness import Measurement
from experiments.recognition.config import Config
from experiments.run.options import OptionalInt, check_counts, check_name, check_seed
from experiments.run.session import prepare
from experiments.run.terminal import UserError

NAMES = {"precision_at_1": "P@1", "map_at_r": "MAP@R", "tar": "TAR at FAR 1e-3", "rank_1": "rank-1"}


@dataclasses.dataclass(frozen=True)
class Recognition(Measurement):
    """The recipe of python -m experiments.recognition, and PyTorch's of the same, side by side.

    Both begin from the same weights and take the same batches in the same order; the loss is the ArcFaceLoss of
    pytorch-metric-learning. Each is judged after the last epoch, on identities that training never saw.
    """

    variant: str = "v1_2_3"
    """a network of the ArcLoss study"""
    data: str = "glyphs"
    """as python -m experiments.recognition takes it"""
    size: OptionalInt = None
    """height and width of the pictures; by default the command's"""
    epochs: int = 20
    steps_per_epoch: OptionalInt = None
    """stop each epoch after so many batches"""
    seed: int = 0
    """the first seed"""
    seeds: int = 3
    """number of seeds, trained one after the other"""

    def run(self) -> dict[str, Any]:
        check_name("variant", self.variant, [*VARIANTS])
        check_counts(self, ("size", "epochs", "steps_per_epoch", "seeds"))
        check_seed(self.seed)
        for module, package in (("torch", "torch"), ("pytorch_metric_learning", "pytorch-metric-learning")):
            if not find_spec(module):
                raise UserError(f"a comparison with {package}, which is not installed: pip install -e '.[torch]'")
        from experiments.bench.recognition_pair import train
        from experiments.run.pictures import load

        prepare()
        dataset = load(self.data, size=self.size, open_set=True)
        table = Table("seed", "contender", *NAMES.values(), "seconds", title=f"{self.variant} on {self.data}")
        rows: list[dict[str, Any]] = []
        for seed in range(self.seed, self.seed + self.seeds):
            config = Config(
                model=self.variant,
                data=self.data,
                size=self.size,
                epochs=self.epochs,
                steps_per_epoch=self.steps_per_epoch,
                seed=seed,
                warmup=min(1.0, self.epochs / 2),
            )
            rows.append({"seed": seed, **train(config, dataset)})
            for name in ("jaxnets", "torch"):
                found = rows[-1][name]
                table.add_row(str(seed), name, *(_share(found[key]) for key in NAMES), f"{found['seconds']:.0f}")
        Console().print(table)
        return {"name": self.variant, "data": self.data, "epochs": self.epochs, "rows": rows}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
