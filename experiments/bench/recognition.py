"""A training on identities beside the same in PyTorch and pytorch-metric-learning, judged on unseen identities."""

import dataclasses
import math
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from experiments.bench.accuracy import Jaxnets
from experiments.bench.harness import Measurement
from experiments.run.bar import ProgressBar
from experiments.run.options import OptionalInt, check_counts, check_name, check_seed
from experiments.run.terminal import UserError

if TYPE_CHECKING:
    from experiments.recognition.config import Config
    from experiments.run.experiment import Experiment
    from jaxnets.data import Dataset

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
        from experiments.arcloss.variants import VARIANTS

        check_name("variant", self.variant, [*VARIANTS])
        check_counts(self, ("size", "epochs", "steps_per_epoch", "seeds"))
        check_seed(self.seed)
        for module, package in (("torch", "torch"), ("pytorch_metric_learning", "pytorch-metric-learning")):
            if not find_spec(module):
                raise UserError(f"a comparison with {package}, which is not installed: pip install -e '.[torch]'")
        from experiments.recognition.config import Config
        from experiments.run.pictures import load
        from experiments.run.session import prepare

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
            rows.append({"seed": seed, **self._train(config, dataset)})
            for name in ("jaxnets", "torch"):
                found = rows[-1][name]
                table.add_row(str(seed), name, *(_share(found[key]) for key in NAMES), f"{found['seconds']:.0f}")
        Console().print(table)
        return {"name": self.variant, "data": self.data, "epochs": self.epochs, "rows": rows}

    def _train(self, config: "Config", dataset: "Dataset") -> dict[str, Any]:
        """Each contender's figures, and its seconds of training."""
        from experiments.recognition.study import build

        experiment = build(config, dataset)
        found: dict[str, Any] = {}
        jaxnets, peer = Jaxnets(experiment), _PyTorch(experiment, config, dataset)
        contenders: dict[str, Jaxnets | _PyTorch] = {"jaxnets": jaxnets, "torch": peer}
        with ProgressBar(self.variant, 2 * self.epochs * experiment.plan.examples) as bar:
            done = 0
            for name, each in contenders.items():
                bar.describe(f"seed {config.seed}, {name}")
                before = time.perf_counter()
                for epoch in range(self.epochs):
                    for images, mean in each.train_epoch(epoch):
                        loss = mean
                        bar.advance_to(done + images)
                    done += experiment.plan.examples
                seconds = time.perf_counter() - before
                embeddings = jaxnets.evaluated().embeddings if each is jaxnets else peer.embeddings()
                bar.say(f"seed {config.seed}, {name}: {self.epochs} epochs in {seconds:.0f} s")
                found[name] = {**_judged(embeddings, dataset), "train_loss": loss, "seconds": round(seconds, 1)}
        return found


class _PyTorch:
    """The same weights, order of examples and recipe in PyTorch, with the loss of pytorch-metric-learning."""

    def __init__(self, experiment: "Experiment", config: "Config", dataset: "Dataset") -> None:
        import jax
        import torch
        from pytorch_metric_learning.losses import ArcFaceLoss

        from experiments.recognition.optimizing import MOMENTUM, build_schedule
        from experiments.torch_peer import Net
        from jaxnets.models.conv_stack import BACKBONES
        from jaxnets.torch_weights import to_torch

        state, self._config, self._dataset = experiment.state, config, dataset
        self._plan, self._key = experiment.plan, jax.numpy.copy(state.key)
        self._schedule = build_schedule(config, config.epochs, experiment.plan.steps)
        height, _, channels = experiment.config["image_shape"]
        self._net = Net(BACKBONES[config.model], channels, height, outputs=config.embedding)
        weights = to_torch(config.model, {"params": state.params["net"], "batch_stats": state.batch_stats})
        self._net.load_state_dict({key: torch.tensor(np.asarray(array)) for key, array in weights.items()})
        self._net.to(memory_format=torch.channels_last)
        of_classes = np.asarray(state.params["head"]["class_weights"])
        self._loss = ArcFaceLoss(
            num_classes=len(of_classes),
            embedding_size=config.embedding,
            margin=math.degrees(experiment.config["margin"]["m"]),
            scale=experiment.config["scale"],
        )
        with torch.no_grad():
            self._loss.W.copy_(torch.tensor(of_classes.T))
        parameters = [*self._net.parameters(), *self._loss.parameters()]
        groups = [
            {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [each for each in parameters if each.ndim <= 1]},
        ]
        self._optimizer = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM)

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
        """After each step of an epoch, counted from 0, the examples taken and their mean loss."""
        import torch

        from experiments.torch_peer import as_batch
        from jaxnets.epochs import epoch_order

        plan, train = self._plan, self._dataset.train
        order = np.asarray(epoch_order(self._key, epoch, len(train.labels)))[: plan.examples]
        total = 0.0
        self._net.train()
        for step, start in enumerate(range(0, plan.examples, plan.batch_size), epoch * plan.steps):
            images, labels = as_batch(train, order[start : start + plan.batch_size])
            for group in self._optimizer.param_groups:
                group["lr"] = float(self._schedule(step))
            self._optimizer.zero_grad()
            loss = self._loss(self._net(images), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._net.parameters(), self._config.clip)
            self._optimizer.step()
            total += loss.item() * len(labels)
            yield start + len(labels), total / (start + len(labels))

    def embeddings(self) -> Float[np.ndarray, "N D"]:
        import torch

        from experiments.torch_peer import as_batch

        test, found = self._dataset.test, []
        self._net.eval()
        with torch.inference_mode():
            for start in range(0, len(test.labels), 500):
                images, _ = as_batch(test, np.arange(start, min(start + 500, len(test.labels))))
                found.append(self._net(images).numpy())
        return np.concatenate(found)


def _judged(embeddings: Float[np.ndarray, "N D"], dataset: "Dataset") -> dict[str, float | None]:
    from experiments.recognition.judging import judge

    judgement = judge(embeddings, np.asarray(dataset.test.labels), None)
    return {
        "precision_at_1": judgement.retrieval.precision_at_1,
        "map_at_r": judgement.retrieval.map_at_r,
        "tar": judgement.verification.tar_at_far[1e-3],
        "rank_1": judgement.identification.rank_at[1],
    }


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
