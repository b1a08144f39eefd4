"""A network and its PyTorch original trained side by side: from the same weights, on the same batches in order."""

import dataclasses
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement
from experiments.bench.workloads import check_name, trainings
from experiments.run.bar import ProgressBar
from experiments.run.options import OptionalInt, OptionalStr, check_counts, check_seed
from experiments.run.session import prepare
from experiments.run.terminal import UserError

if TYPE_CHECKING:
    from experiments.run.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Accuracy(Measurement):
    """A network and its PyTorch original, trained side by side from the same weights on the same batches."""

    variant: str = "mynn"
    """mynn, on pictures; or a variant of the ArcLoss study, by the recipe of python -m experiments.arcloss"""
    data: OptionalStr = None
    """as the study's own command takes it; by default faces for mynn, mnist for a variant"""
    size: int = 224
    """of mynn: height and width to which pictures are brought"""
    epochs: int = 3
    batch_size: OptionalInt = None
    """by default 64 for mynn, the variant's own for a variant"""
    steps_per_epoch: OptionalInt = None
    """stop each epoch after so many batches"""
    seed: int = 0
    """the first seed"""
    seeds: int = 1
    """number of seeds, trained one after the other"""

    def run(self) -> dict[str, Any]:
        check_name(self.variant)
        check_counts(self, ("size", "epochs", "batch_size", "steps_per_epoch", "seeds"))
        check_seed(self.seed)
        if not find_spec("torch"):
            raise UserError("this is a comparison with PyTorch, which is not installed: pip install -e '.[torch]'")
        prepare()
        _, build = trainings(self.variant, self.data, self.size, self.batch_size, self.epochs, self.steps_per_epoch)
        first = build(self.seed)
        of_seed = 2 * self.epochs * first.plan.examples
        title = f"{self.variant} on {first.config['data']}"
        table = Table("seed", "epoch", "contender", "loss", "test accuracy", "seconds", title=title)
        rows: list[dict[str, Any]] = []
        with ProgressBar(self.variant, self.seeds * of_seed) as bar:
            for i in range(self.seeds):
                experiment = build(self.seed + i) if i else first
                rows += self._train(experiment, i * of_seed, table, bar)
        Console().print(table)
        return {"name": self.variant, "rows": rows}

    def _train(self, experiment: "Experiment", done: int, table: Table, bar: ProgressBar) -> Iterator[dict[str, Any]]:
        """A row for each epoch; `done` images came before."""
        from experiments.bench.accuracy_pair import Jaxnets, PyTorch

        seed = experiment.config["seed"]
        contenders: dict[str, Jaxnets | PyTorch] = {"jaxnets": Jaxnets(experiment), "torch": PyTorch(experiment)}
        for epoch in range(self.epochs):
            row: dict[str, Any] = {"seed": seed, "epoch": epoch + 1}
            for name, each in contenders.items():
                bar.describe(f"seed {seed}, epoch {epoch + 1}, {name}")
                before = time.perf_counter()
                for count, mean in each.train_epoch(epoch):
                    loss = mean
                    bar.advance_to(done + count)
                seconds = time.perf_counter() - before
                done += experiment.plan.examples
                row[name] = {"train_loss": loss, "test_accuracy": each.accuracy(), "seconds": seconds}
                found = f"{loss:.4f}", f"{row[name]['test_accuracy']:.4f}", f"{seconds:.1f}"
                table.add_row(str(seed), str(epoch + 1), name, *found)
                bar.say(f"seed {seed}, epoch {epoch + 1}, {name}: loss {found[0]}, test accuracy {found[1]}")
            yield row
