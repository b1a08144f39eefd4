"""The two contenders of `accuracy`, and the first of `recognition`: this project and PyTorch, an epoch at a time."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from experiments.arcloss.variants import VARIANTS, Adam, Sgd
from experiments.mynn.study import MOMENTUM
from experiments.run.experiment import Experiment
from experiments.torch_peer import ArcHead, Mynn, Net, ScoresHead, as_batch, build_optimizer
from jaxnets.data import Split
from jaxnets.epochs import Evaluation, epoch_order, evaluate, mean_metrics, train_epoch_by_call
from jaxnets.margins import ArcFace
from jaxnets.models.conv_stack import BACKBONES
from jaxnets.torch_weights import to_torch


class Jaxnets:
    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._state = experiment, experiment.state

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
        """After each step of an epoch, counted from 0, the examples taken and their mean loss."""
        train = self._experiment.train
        assert isinstance(train, Split)  # nothing streams here
        for state, totals, _ in train_epoch_by_call(self._state, train, self._experiment.plan, epoch):
            self._state = state
            yield int(totals.examples), mean_metrics(totals)["loss"]

    def accuracy(self) -> float:
        return self.evaluated().accuracy

    def evaluated(self) -> Evaluation:
        return evaluate(self._state, self._experiment.test, self._experiment.evaluation_batch)


class PyTorch:
    """The same weights, order of examples and recipe, in PyTorch."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._key = experiment, jnp.copy(experiment.state.key)
        self._net, self._head, recipe, of_head = _modules(experiment)
        self._net.to(memory_format=torch.channels_last)
        self._optimizers = [build_optimizer(recipe, self._net)]
        if of_head is not None:
            self._optimizers.append(build_optimizer(of_head, self._head))

    def train_epoch(self, epoch: int) -> Iterator[tuple[int, float]]:
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
        test, size, correct = self._experiment.test, self._experiment.evaluation_batch, 0
        self._net.eval()
        with torch.inference_mode():
            for start in range(0, len(test.labels), size):
                images, labels = as_batch(test, np.arange(start, min(start + size, len(test.labels))))
                correct += int((self._head.scores(self._net(images)).argmax(dim=1) == labels).sum())
        return correct / len(test.labels)


def _modules(experiment: Experiment) -> tuple[Any, Any, Adam | Sgd, Adam | Sgd | None]:
    """Network and head with the experiment's weights, and the recipe of each one's optimiser."""
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
