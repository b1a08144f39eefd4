"""The confusion matrix: true classes against predicted ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxnets.figures.page import TITLE_BAND, page, panel, shortened
from jaxnets.figures.palette import GREY, INK

RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", "#8fbce8", "#1f5fa8"])
WRONG = LinearSegmentedColormap.from_list("wrong", ["#ffffff", "#f6b48f", "#c4161c"])
# Above this many classes a count no longer fits its cell.
COUNTED_CLASSES = 25


def confusion(
    labels: Integer[np.ndarray, "N"],
    predictions: Integer[np.ndarray, "N"],
    *,
    classes: Sequence[str],
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draws the C × C table of counts, a row a true class, coloured by the share of its row.

    The diagonal is blue. Mistakes are red on a scale of their own, the square root of their share, full at a fifth of a
    row: on the diagonal's scale they would all look white at an accuracy of 98 %.
    """
    counts = confusion_counts(labels, predictions, len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(classes), dtype=bool)
    colours = np.where(diagonal[..., None], RIGHT(shares), WRONG(np.sqrt(np.minimum(shares / 0.2, 1))))

    names = shortened(classes)
    longest = max(len(name) for name in names)
    size = float(np.clip(120 / len(classes), 4, 11))
    turned = longest * len(names) > 60
    left, above = (0.55 + 0.0088 * size * letters for letters in (longest, longest if turned else 2))
    side = 7 - left - 0.25
    figure = page(7, side + above + 0.3 + TITLE_BAND, title, subtitle)
    axes = panel(figure, left, 0.2, side, side)
    axes.imshow(colours, interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 if len(classes) <= COUNTED_CLASSES else 0.3)
    axes.set_xticks(range(len(classes)), names, rotation=90 if turned else 0, parse_math=False)
    axes.set_yticks(range(len(classes)), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(which="both", length=0, labelsize=size, labelcolor=INK)
    axes.set_xlabel("predicted", fontsize=10.5, color=GREY, labelpad=7)
    axes.set_ylabel("true", fontsize=10.5, color=GREY)
    if len(classes) <= COUNTED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            dark = colours[row, column, :3] @ (0.299, 0.587, 0.114) < 0.55
            axes.text(
                column,
                row,
                f"{counts[row, column]:d}",
                ha="center",
                va="center",
                fontsize=size * (0.95 if counts.max() < 10_000 else 0.8),
                color="white" if dark else INK,
                gid="count",
            )
    return figure


def confusion_counts(
    labels: Integer[np.ndarray, "N"], predictions: Integer[np.ndarray, "N"], num_classes: int
) -> Integer[np.ndarray, "C C"]:
    """The number of points of each true class (row) that were predicted as each class (column)."""
    flat = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)
