"""The pages of the gender study: one run's confusion with its pictures, and the networks compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.page.document import document, flat, pack, sprite
from experiments.page.embeddings import hexadecimal
from jaxnets.figures.palette import class_colours

PICTURES = 4_000  # that a page holds at most
NAMES = ("epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy")


def classifier_page(
    lines: Sequence[Mapping[str, Any]],
    probabilities: Sequence[Float[np.ndarray, "N K"]],
    labels: Int[np.ndarray, "N"],
    images: Any,
    *,
    classes: Sequence[str],
    title: str,
    command: str,
    config: Mapping[str, Any],
) -> bytes:
    """One run.

    Args:
      lines: of the epochs to show; `spread` chooses them where there are many.
      probabilities: of each of these epochs.
      labels: of the test pictures.
      images: of these, as `sprite` takes them.
      classes: their names.
      title: of the page.
      command: the line that runs it again.
      config: shown as a table.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:PICTURES])
    is_all = len(chosen) == len(labels)
    confident = [each[chosen] for each in probabilities]
    data = {
        "title": title,
        "lines": [{name: line[name] for name in NAMES} for line in lines],
        "classes": [*classes],
        "labels": pack(np.asarray(labels)[chosen].astype(np.uint16)),
        "predictions": [pack(each.argmax(axis=1).astype(np.uint16)) for each in confident],
        "confidences": [pack((each.max(axis=1) * 65535).round().astype(np.uint16)) for each in confident],
        "sprite": sprite(images, chosen),
        "note": "" if is_all else f"shown: {len(chosen):,} of {len(labels):,} pictures",
        "command": command,
        "config": flat(dict(config)),
    }
    return document(title, data, ["classifier.js"])


@dataclasses.dataclass(frozen=True)
class Network:
    name: str
    parameters: int
    megabytes: float
    last_accuracy: float
    best_accuracy: float
    seconds_per_epoch: float
    images_per_second: float
    curve: tuple[float, ...]
    href: str = ""


def networks_page(networks: Sequence[Network], *, title: str, note: str) -> bytes:
    """The comparison."""
    columns = [
        {"key": "name", "name": "network"},
        {"key": "parameters", "name": "parameters", "digits": 0},
        {"key": "megabytes", "name": "MiB", "digits": 2},
        {"key": "last_accuracy", "name": "accuracy, last", "share": True},
        {"key": "best_accuracy", "name": "best", "share": True},
        {"key": "seconds_per_epoch", "name": "s an epoch", "digits": 1},
        {"key": "images_per_second", "name": "images/s", "digits": 1},
    ]
    colours = hexadecimal(class_colours(len(networks)))
    rows = [dataclasses.asdict(each) | {"colour": colour} for each, colour in zip(networks, colours, strict=True)]
    data = {
        "title": title,
        "note": note,
        "columns": columns,
        "rows": rows,
        "sort": "best_accuracy",
        "curve": "test accuracy",
    }
    return document(title, data, ["networks.js"])
