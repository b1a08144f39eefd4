"""The networks and training step of the two studies in PyTorch: the peer of every comparison."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import nn

from experiments.arcloss.variants import Adam, Sgd, Variant
from jaxnets.data import Split
from jaxnets.margins import ArcFace
from jaxnets.models.conv_stack import BACKBONES, Backbone


class ConvLayer(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.PReLU()
        )


class Net(nn.Module):
    """A network of the ArcLoss study, under the study's names; `size` is the images' height and width."""

    def __init__(self, backbone: Backbone, channels: int = 1, size: int = 28, outputs: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in backbone.layers:
            if layer == "M":
                layers.append(nn.MaxPool2d(2, 2))
                size //= 2
            else:
                features, kernel_size, padding = layer
                layers.append(ConvLayer(channels, features, kernel_size, 1, padding))
                channels, size = features, size + 2 * padding - kernel_size + 1
        self.hidden_layer = nn.Sequential(*layers)
        self.averages = backbone.head == "mean"
        self.fc = nn.Sequential(
            nn.Conv2d(channels, outputs, 5, 1, 2)
            if backbone.head == "conv"
            else nn.Linear(channels if self.averages else channels * size * size, outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.hidden_layer(x)
        if self.averages:
            x = x.mean((2, 3))
        return self.fc(x.flatten(1)) if isinstance(self.fc[0], nn.Linear) else self.fc(x).flatten(1)


class ArcHead(nn.Module):
    """ArcFace as in its authors' code, class weights [D, C].

    `min_norm`: embeddings shorter than this get the gradient of ones so long, see `jaxnets.losses.limit_gradient`.
    """

    def __init__(
        self, margin: ArcFace, scale: float, outputs: int = 2, classes: int = 10, min_norm: float = 0.0
    ) -> None:
        super().__init__()
        self.margin, self.scale, self.min_norm = margin, scale, min_norm
        self.weight = nn.Parameter(torch.randn(outputs, classes))

    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines [N, C]: the largest is the prediction."""
        return F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=0)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cos_m, sin_m = math.cos(self.margin.m), math.sin(self.margin.m)
        if self.min_norm:
            fixed = embeddings.detach()
            share = (fixed.norm(dim=1, keepdim=True) / self.min_norm).clamp_max(1)
            embeddings = fixed + share * (embeddings - fixed)
        unit, classes = F.normalize(embeddings, dim=1), F.normalize(self.weight, dim=0)
        cosines = unit @ classes
        target = cosines.gather(1, labels[:, None])
        sine = self.sine(target, unit, classes.T[labels])
        past = target - self.margin.m * sin_m
        with_margin = torch.where(target > -cos_m, target * cos_m - sine * sin_m, past)
        return F.cross_entropy(self.scale * cosines.scatter(1, labels[:, None], with_margin), labels)

    def sine(self, target: torch.Tensor, embeddings: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The sine of the angle to the own class, [N, 1]; `embeddings` and `own` are of unit length."""
        return torch.sqrt((1 - target**2).clamp_min(1e-12))


def build_optimizer(recipe: Adam | Sgd, module: nn.Module) -> torch.optim.Optimizer:
    if isinstance(recipe, Adam):
        return torch.optim.Adam(module.parameters(), recipe.learning_rate)
    return torch.optim.SGD(module.parameters(), recipe.learning_rate, recipe.momentum)


class Mynn(nn.Module):
    """The gender study's network, under the study's names."""

    def __init__(self, size: int = 224, outputs: int = 2) -> None:
        super().__init__()
        self.model1 = nn.Sequential(
            nn.Conv2d(3, 32, 5, 1, 2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 5, 1, 2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, 1, 2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (size // 8) ** 2, 64),
            nn.Linear(64, outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model1(x)


class ScoresHead(nn.Module):
    """Cross-entropy of the network's own scores: no parameters."""

    def scores(self, scores: torch.Tensor) -> torch.Tensor:
        return scores

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores, labels)


def as_batch(split: Split, chosen: Int[np.ndarray, "N"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, C, H, W] of 0 … 1 in channels-last memory, and labels."""
    images = torch.from_numpy(np.asarray(split.images)[chosen].transpose(0, 3, 1, 2)).float() / 255
    labels = torch.from_numpy(np.asarray(split.labels)[chosen].astype(np.int64))
    return images.contiguous(memory_format=torch.channels_last), labels


class TorchStep:
    """One training step of a variant or of Mynn, on images [N, C, H, W] in channels-last memory.

    `compiled`: with `torch.compile`.
    """

    def __init__(self, variant: Variant, margin: ArcFace, scale: float, *, device: str, compiled: bool) -> None:
        is_mynn = variant.name == "mynn"
        net = Mynn() if is_mynn else Net(BACKBONES[variant.name])
        self.net = net.to(device, memory_format=torch.channels_last)
        self.head = ScoresHead() if is_mynn else ArcHead(margin, scale).to(device)
        self.optimizers = [build_optimizer(variant.net, self.net)]
        if not is_mynn:
            self.optimizers.append(build_optimizer(variant.head, self.head))
        self.loss = torch.compile(self._loss) if compiled else self._loss
        self.embed = torch.compile(self.net) if compiled else self.net

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(images), labels)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = self.loss(images, labels)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss
