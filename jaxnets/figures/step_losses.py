"""The training loss of every step, and its trend."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxnets.figures.page import TITLE_BAND, page, panel, quiet
from jaxnets.figures.palette import GREY, INK
from jaxnets.figures.training_curves import ORANGE, smoothed

# A fit compares all points with each other, and a picture of this width shows no more points than this.
FITTED_POINTS = 1000


def step_losses(losses: Float[np.ndarray, "N"], *, steps_per_epoch: int, title: str = "", subtitle: str = "") -> Figure:
    """Draws the loss of each of N steps faintly over the epochs, with a trend fitted to them."""
    figure = page(7.6, 4.05 + TITLE_BAND, title, subtitle)
    axes = quiet(panel(figure, 0.65, 0.6, 6.0, 2.95))
    axes.text(-0.03, 1.07, "training loss", transform=axes.transAxes, fontsize=11, fontweight="bold", color=INK)
    epochs = np.arange(1, len(losses) + 1) / steps_per_epoch
    known = np.isfinite(losses)
    axes.plot(epochs[known], losses[known], color=ORANGE, linewidth=0.6, alpha=0.35, gid="steps")
    x, y = (_means(values[known]) for values in (epochs, losses))
    if len(x) > 2:
        fitted = smoothed(x, y)
        axes.plot(x, fitted, color=ORANGE, linewidth=2.2, gid="trend")
        place = (1.01, float(fitted[-1]))
        axes.annotate("trend", place, xycoords=axes.get_yaxis_transform(), va="center", color=ORANGE, fontweight="bold")
    if known.any():  # a single spike would flatten all other steps
        axes.set_ylim(0, 1.25 * float(np.quantile(losses[known], 0.99)) or 1.0)
    axes.set_xlim(0, max(float(epochs[-1]), 1 / steps_per_epoch) if len(epochs) else 1)
    axes.set_xlabel("epoch", fontsize=9.5, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure


def _means(values: np.ndarray) -> np.ndarray:
    """Means of neighbours, so that at most `FITTED_POINTS` are left."""
    if len(values) <= FITTED_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, FITTED_POINTS)])
