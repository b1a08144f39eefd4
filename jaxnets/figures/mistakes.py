"""The mistakes of which a classifier is most confident."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure

from jaxnets.figures.page import TITLE_BAND, page, panel, shortened
from jaxnets.figures.palette import GREY, INK

COLUMNS, ROWS = 6, 4


def mistakes(
    images: Any,
    labels: Integer[np.ndarray, "N"],
    probabilities: Float[np.ndarray, "N K"],
    *,
    classes: Sequence[str],
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draws the 24 images whose predicted class is wrong and most probable, with that class and the true one.

    Args:
      images: uint8 [N, H, W, 1 or 3], or anything else that gives an image for an index.
      probabilities: of each of K classes.
      classes: K names.
    """
    chosen = most_confident(labels, probabilities)[: COLUMNS * ROWS]
    rows = max(math.ceil(len(chosen) / COLUMNS), 1)
    side, text = 1.35, 0.42
    figure = page(COLUMNS * (side + 0.12) + 0.2, rows * (side + text) + TITLE_BAND + 0.15, title, subtitle)
    names = shortened(classes, 15)
    for place, index in enumerate(chosen):
        left = 0.2 + place % COLUMNS * (side + 0.12)
        bottom = (rows - 1 - place // COLUMNS) * (side + text) + text
        axes = panel(figure, left, bottom, side, side)
        axes.axis("off")
        image = np.asarray(images[index])
        axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
        taken = int(probabilities[index].argmax())
        words = f"{names[taken]} {100 * probabilities[index, taken]:.0f} %"
        axes.text(0, -0.05, words, transform=axes.transAxes, va="top", fontsize=8, color=INK, fontweight="bold")
        axes.text(
            0, -0.18, f"is {names[int(labels[index])]}", transform=axes.transAxes, va="top", fontsize=8, color=GREY
        )
    if not len(chosen):
        figure.text(0.5, 0.4, "no mistakes", ha="center", fontsize=13, color=GREY)
    return figure


def most_confident(
    labels: Integer[np.ndarray, "N"], probabilities: Float[np.ndarray, "N K"]
) -> Integer[np.ndarray, "M"]:
    """Indices of the wrong predictions, the most probable first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]
