"""A network and its PyTorch original trained side by side: from the same weights, on the same batches in order."""

import dataclasses
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.arcloss.variants import VARIANTS, Adam, Sgd
from experiments.bench.harness import Measurement
from experiments.bench.workloads import check_name, trainings
from experiments.run.bar import ProgressBar
from experiments.run.options import OptionalInt, OptionalStr, check_counts, check_seed
from experiments.run.terminal import UserError

if TYPE_CHECKING:
    from experiments.run.experiment import Experiment
    from jaxnets.epochs import Evaluation


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
        from experiments.run.session import prepare

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
        seed = experiment.config["seed"]
        contenders: dict[str, Jaxnets | _PyTorch] = {"jaxnets": Jaxnets(experiment), "torch": _PyTorch(experiment)}
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


class Jaxnets:
    def __init__(self, experiment: "Experiment") -> None:
        self._experiment, self._state = experiment, experiment.state

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
        """After each step of an epoch, counted from 0, the examples taken and their mean loss."""
        from jaxnets.data import Split
        from jaxnets.epochs import mean_metrics, train_epoch_by_call

        train = self._experiment.train
        assert isinstance(train, Split)  # nothing streams here
        for state, totals, _ in train_epoch_by_call(self._state, train, self._experiment.plan, epoch):
            self._state = state
            yield int(totals.examples), mean_metrics(totals)["loss"]

    def accuracy(self) -> float:
        return self.evaluated().accuracy

    def evaluated(self) -> "Evaluation":
        from jaxnets.epochs import evaluate

        return evaluate(self._state, self._experiment.test, self._experiment.evaluation_batch)


class _PyTorch:
    """The same weights, order of examples and recipe, in PyTorch."""

    def __init__(self, experiment: "Experiment") -> None:
        import jax
        import torch

        from experiments.torch_peer import build_optimizer

        self._experiment, self._key = experiment, jax.numpy.copy(experiment.state.key)
        self._net, self._head, recipe, of_head = _modules(experiment)
        self._net.to(memory_format=torch.channels_last)
        self._optimizers = [build_optimizer(recipe, self._net)]
        if of_head is not None:
            self._optimizers.append(build_optimizer(of_head, self._head))

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
        from experiments.torch_peer import as_batch
        from jaxnets.data import Split
        from jaxnets.epochs import epoch_order

        plan, train = self._experiment.plan, self._experiment.train
        assert isinstance(train, Split)
        order = np.asarray(epoch_order(self._key, epoch, len(train.labels)))[: plan.examples]
        for group in self._optimizers[0].param_groups:
            group["lr"] = self._experiment.learning_rate(epoch)
        total = 0.0
        self._net.train()
        for start in range(0, plan.examples, plan.batch_size):
            images, labels = as_batch(train, order[start : start + plan.batch_size])
            for optimizer in self._optimizers:
                optimizer.zero_grad()
            loss = self._head(self._net(images), labels)
            loss.backward()
            for optimizer in self._optimizers:
                optimizer.step()
            total += loss.item() * len(labels)
            yield start + len(labels), total / (start + len(labels))

    def accuracy(self) -> float:
        import torch

        from experiments.torch_peer import as_batch

        test, size, correct = self._experiment.test, self._experiment.evaluation_batch, 0
        self._net.eval()
        with torch.inference_mode():
            for start in range(0, len(test.labels), size):
                images, labels = as_batch(test, np.arange(start, min(start + size, len(test.labels))))
                correct += int((self._head.scores(self._net(images)).argmax(dim=1) == labels).sum())
        return correct / len(test.labels)


def _modules(experiment: "Experiment") -> tuple[Any, Any, Adam | Sgd, Adam | Sgd | None]:
    """Network and head with the experiment's weights, and the recipe of each one's optimiser."""
    import torch

    from experiments.mynn.study import MOMENTUM
    from experiments.torch_peer import ArcHead, Mynn, Net, ScoresHead
    from jaxnets.margins import ArcFace
    from jaxnets.models.conv_stack import BACKBONES
    from jaxnets.torch_weights import to_torch

    config, state, name = experiment.config, experiment.state, experiment.name
    weights = to_torch(name, {"params": state.params["net"], "batch_stats": state.batch_stats})
    size, _, channels = config["image_shape"]
    classes = len(config["classes"])
    net = Mynn(size, classes) if name == "mynn" else Net(BACKBONES[name], channels, size)
    net.load_state_dict({key: torch.tensor(np.asarray(array)) for key, array in weights.items()})
    if name == "mynn":
        return net, ScoresHead(), Sgd(config["learning_rate"], MOMENTUM), None
    head = ArcHead(ArcFace(config["margin"]["m"]), config["scale"], classes=classes, min_norm=config["min_norm"])
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.asarray(state.params["head"]["class_weights"]).T))
    return net, head, VARIANTS[name].net, VARIANTS[name].head
