"""The pages of recognition: one run, judged on identities that training never saw, and several margins compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt16

from experiments.page.document import document, flat, pack, sprite
from experiments.page.embeddings import hexadecimal
from jaxnets.figures.palette import class_colours
from jaxnets.recognition import Roc

RATES = 81  # false acceptance rates that the slider has
BINS = 100  # of cosines from −1 to 1
WHOLE, UNIT = 65535, 32767  # a share of 1, and a cosine of 1, when packed


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of an epoch: its value and the ends of its interval, as shares of 1, or a sentence in their place."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Judged:
    """An epoch: its line, its figures, the ROC of all pairs, and the nearest pictures of each query."""

    line: Mapping[str, Any]
    figures: Sequence[Figure]
    roc: Roc
    found: Int[np.ndarray, "Q K"]
    cosines: Float[np.ndarray, "Q K"]


def recognition_page(
    epochs: Sequence[Judged],
    queries: Mapping[str, Int[np.ndarray, "q"]],
    labels: Int[np.ndarray, "N"],
    images: Any,
    *,
    smallest_far: float,
    names: Sequence[str],
    said: str,
    title: str,
    command: str,
    config: Mapping[str, Any],
) -> bytes:
    """One run.

    Args:
      epochs: the epochs to show; `spread` chooses some where there are many.
      queries: pictures by number, in groups by name; Q in all, in the order of the epochs' `found`.
      labels: of the test pictures.
      images: of these, as `sprite` takes them.
      smallest_far: where the ROC begins; smaller rates would rest on too few errors.
      names: of the identities, by label.
      said: the comparison in words.
      title: of the page.
      command: the line that runs it again.
      config: shown as a table.
    """
    rates = np.geomspace(min(smallest_far, 0.1), 1, RATES)
    asked = np.concatenate([np.asarray(group) for group in queries.values()])
    chosen = np.unique(np.concatenate([asked, *(each.found.ravel() for each in epochs)]))
    data = {
        "title": title,
        "said": said,
        "lines": [{"epoch": each.line["epoch"], "train_loss": each.line["train_loss"]} for each in epochs],
        "figures": [[dataclasses.asdict(figure) for figure in each.figures] for each in epochs],
        "rates": rates.tolist(),
        "roc": [_at_rates(each.roc, rates) for each in epochs],
        "bins": BINS,
        "pairs": [_by_cosine(each.roc) for each in epochs],
        "groups": [{"name": name, "size": len(group)} for name, group in queries.items()],
        "queries": pack(_places(asked, chosen)),
        "found": [pack(_places(each.found, chosen)) for each in epochs],
        "cosines": [pack((each.cosines.clip(-1, 1) * UNIT).round().astype(np.int16)) for each in epochs],
        "beside": epochs[0].found.shape[1],
        "names": [names[label] for label in labels[chosen]],
        "identities": pack(np.unique(labels[chosen], return_inverse=True)[1].astype(np.uint16)),
        "sprite": sprite(images, chosen),
        "command": command,
        "config": flat(dict(config)),
    }
    return document(title, data, ["recognition.js"])


def margins_page(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str, note: str) -> bytes:
    """Several margins: a table that sorts, and their MAP@R over training.

    Args:
      rows: {"name", "scale", "curve": MAP@R of each epoch, "href"}, and a share of 1 for each of the columns.
      columns: names of figures, of which the rows have one each, or None.
      title: of the page.
      note: below it.
    """
    colours = hexadecimal(class_colours(len(rows)))
    data = {
        "title": title,
        "note": note,
        "columns": [
            {"key": "name", "name": "margin"},
            {"key": "scale", "name": "scale", "digits": 2},
            *({"key": name, "name": name, "share": True} for name in columns),
        ],
        "rows": [{**each, "colour": colour} for each, colour in zip(rows, colours, strict=True)],
        "sort": "MAP@R",
        "curve": "MAP@R",
    }
    return document(title, data, ["networks.js"])


def _at_rates(roc: Roc, rates: Float[np.ndarray, "R"]) -> dict[str, Any]:
    """TAR and threshold at each false acceptance rate; a threshold of ∞ counts as 1."""
    places = np.searchsorted(roc.far, rates, side="right") - 1
    return {
        "tar": pack((roc.tar[places] * WHOLE).round().astype(np.uint16)),
        "thresholds": pack((roc.thresholds[places].clip(-1, 1) * UNIT).round().astype(np.int16)),
    }


def _by_cosine(roc: Roc) -> dict[str, Any]:
    """The shares of genuine and of impostor pairs in each bin of cosines."""
    edges = np.linspace(-1, 1, BINS + 1)[1:-1]
    places = len(roc.thresholds) - 1 - np.searchsorted(roc.thresholds[::-1], edges, side="left")
    # The share of pairs that reach each edge; the thresholds descend, and the first of them, ∞, accepts none.
    genuine, impostor = (-np.diff(np.concatenate([[1.0], rates[places], [0.0]])) for rates in (roc.tar, roc.far))
    return {name: pack(share.astype(np.float32)) for name, share in (("genuine", genuine), ("impostor", impostor))}


def _places(numbers: Int[np.ndarray, "..."], chosen: Int[np.ndarray, "M"]) -> UInt16[np.ndarray, "..."]:
    return np.searchsorted(chosen, numbers).astype(np.uint16)
