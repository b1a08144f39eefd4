"""Mynn and its PyTorch original trained side by side: the same weights to begin with, the same batches in order."""

import dataclasses
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.terminal import OptionalInt, ProgressBar, UserError, check_counts

if TYPE_CHECKING:
    from experiments.run import Experiment


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Mynn and its PyTorch original, trained side by side from the same weights on the same batches."""

    data: str = "faces"
    """as python -m experiments.mynn takes it"""
    size: int = 224
    epochs: int = 3
    batch_size: int = 64
    steps_per_epoch: OptionalInt = None
    seed: int = 0
    out: Path | None = None
    """write the result as JSON"""

    def measure(self) -> dict[str, Any]:
        if not find_spec("torch"):
            raise UserError("this is a comparison with PyTorch, which is not installed: pip install -e '.[torch]'")
        check_counts(self, ("size", "epochs", "batch_size", "steps_per_epoch"))
        from experiments import mynn, mynn_data
        from experiments.session import prepare

        prepare()
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "out"}
        config = mynn.Config(**options)
        experiment = mynn.build("mynn", config, mynn_data.load(config))
        contenders: dict[str, _Ours | _PyTorch] = {"jaxnets": _Ours(experiment), "torch": _PyTorch(experiment)}
        rows: list[dict[str, Any]] = []
        table = Table("epoch", "contender", "loss", "test accuracy", "seconds", title=f"mynn on {self.data}")
        done, examples = 0, experiment.cut.examples
        with ProgressBar("mynn", len(contenders) * self.epochs * examples) as bar:
            for epoch in range(self.epochs):
                row: dict[str, Any] = {"epoch": epoch + 1}
                for name, each in contenders.items():
                    bar.describe(f"epoch {epoch + 1}, {name}")
                    before = time.perf_counter()
                    for count, mean in each.train_epoch(epoch):
                        loss = mean
                        bar.advance_to(done + count)
                    seconds = time.perf_counter() - before
                    done += examples
                    row[name] = {"train_loss": loss, "test_accuracy": each.accuracy(), "seconds": seconds}
                    table.add_row(
                        str(epoch + 1), name, f"{loss:.4f}", f"{row[name]['test_accuracy']:.4f}", f"{seconds:.1f}"
                    )
                rows.append(row)
        Console().print(table)
        return {"name": "mynn", "rows": rows}


class _Ours:
    def __init__(self, experiment: "Experiment") -> None:
        self._experiment, self._state = experiment, experiment.state

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
        """After each step of an epoch, counted from 0, the examples taken and their mean loss."""
        from jaxnets.data import Split
        from jaxnets.epochs import mean_metrics, train_epoch_by_call

        train = self._experiment.train
        assert isinstance(train, Split)  # nothing streams here
        for state, totals, _ in train_epoch_by_call(self._state, train, self._experiment.cut, epoch):
            self._state = state
            yield int(totals.examples), mean_metrics(totals)["loss"]

    def accuracy(self) -> float:
        from jaxnets.epochs import evaluate

        return evaluate(self._state, self._experiment.test, self._experiment.evaluation_batch).accuracy


class _PyTorch:
    """The same weights, order of examples and recipe."""

    def __init__(self, experiment: "Experiment") -> None:
        import jax
        import torch

        from experiments.mynn import MOMENTUM
        from experiments.torch_peer import Mynn, build_optimizer
        from experiments.variants import Sgd
        from jaxnets.torch_weights import to_torch

        self._experiment, self._key = experiment, jax.numpy.copy(experiment.state.key)
        config, state = experiment.config, experiment.state
        weights = to_torch("mynn", {"params": state.params["net"], "batch_stats": state.batch_stats})
        self._net = Mynn(config["image_shape"][0], len(config["classes"])).to(memory_format=torch.channels_last)
        self._net.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in weights.items()})
        self._optimizer = build_optimizer(Sgd(config["learning_rate"], MOMENTUM), self._net)

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
        from torch.nn import functional

        from jaxnets.data import Split
        from jaxnets.epochs import epoch_order

        cut, train = self._experiment.cut, self._experiment.train
        assert isinstance(train, Split)
        order = np.asarray(epoch_order(self._key, epoch, len(train.labels)))[: cut.examples]
        total = 0.0
        self._net.train()
        for start in range(0, cut.examples, cut.batch_size):
            images, labels = self._batch(train, order[start : start + cut.batch_size])
            self._optimizer.zero_grad()
            loss = functional.cross_entropy(self._net(images), labels)
            loss.backward()
            self._optimizer.step()
            total += loss.item() * len(labels)
            yield start + len(labels), total / (start + len(labels))

    def accuracy(self) -> float:
        import torch

        test, size, correct = self._experiment.test, self._experiment.evaluation_batch, 0
        self._net.eval()
        with torch.inference_mode():
            for start in range(0, len(test.labels), size):
                images, labels = self._batch(test, np.arange(start, min(start + size, len(test.labels))))
                correct += int((self._net(images).argmax(dim=1) == labels).sum())
        return correct / len(test.labels)

    def _batch(self, split: Any, chosen: np.ndarray) -> tuple[Any, Any]:
        import torch

        images = torch.from_numpy(np.asarray(split.images)[chosen].transpose(0, 3, 1, 2)).float() / 255
        labels = torch.from_numpy(np.asarray(split.labels)[chosen].astype(np.int64))
        return images.contiguous(memory_format=torch.channels_last), labels
