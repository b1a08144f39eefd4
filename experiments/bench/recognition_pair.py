"""The two contenders of `recognition`, trained and judged."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Float
from pytorch_metric_learning.losses import ArcFaceLoss

from experiments.bench.accuracy_pair import Jaxnets
from experiments.recognition.config import Config
from experiments.recognition.judging import judge
from experiments.recognition.optimizing import MOMENTUM, build_schedule
from experiments.recognition.study import build
from experiments.run.bar import ProgressBar
from experiments.run.experiment import Experiment
from experiments.torch_peer import Net, as_batch
from jaxnets.data import Dataset
from jaxnets.epochs import epoch_order
from jaxnets.models.conv_stack import BACKBONES
from jaxnets.torch_weights import to_torch


def train(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Each contender's figures, and its seconds of training."""
    experiment = build(config, dataset)
    found: dict[str, Any] = {}
    jaxnets, peer = Jaxnets(experiment), PyTorch(experiment, config, dataset)
    contenders: dict[str, Jaxnets | PyTorch] = {"jaxnets": jaxnets, "torch": peer}
    with ProgressBar(config.model, 2 * config.epochs * experiment.plan.examples) as bar:
        done = 0
        for name, each in contenders.items():
            bar.describe(f"seed {config.seed}, {name}")
            before = time.perf_counter()
            for epoch in range(config.epochs):
                for images, mean in each.train_epoch(epoch):
                    loss = mean
                    bar.advance_to(done + images)
                done += experiment.plan.examples
            seconds = time.perf_counter() - before
            embeddings = jaxnets.evaluated().embeddings if each is jaxnets else peer.embeddings()
            bar.say(f"seed {config.seed}, {name}: {config.epochs} epochs in {seconds:.0f} s")
            found[name] = {**_judged(embeddings, dataset), "train_loss": loss, "seconds": round(seconds, 1)}
    return found


class PyTorch:
    """The same weights, order of examples and recipe in PyTorch, with the loss of pytorch-metric-learning."""

    def __init__(self, experiment: Experiment, config: Config, dataset: Dataset) -> None:
        state, self._config, self._dataset = experiment.state, config, dataset
        self._plan, self._key = experiment.plan, jnp.copy(state.key)
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
        test, found = self._dataset.test, []
        self._net.eval()
        with torch.inference_mode():
            for start in range(0, len(test.labels), 500):
                images, _ = as_batch(test, np.arange(start, min(start + 500, len(test.labels))))
                found.append(self._net(images).numpy())
        return np.concatenate(found)


def _judged(embeddings: Float[np.ndarray, "N D"], dataset: Dataset) -> dict[str, float | None]:
    judgement = judge(embeddings, np.asarray(dataset.test.labels), None)
    return {
        "precision_at_1": judgement.retrieval.precision_at_1,
        "map_at_r": judgement.retrieval.map_at_r,
        "tar": judgement.verification.tar_at_far[1e-3],
        "rank_1": judgement.identification.rank_at[1],
    }
