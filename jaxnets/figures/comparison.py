"""Networks side by side: accuracy, size and speed."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxnets.figures.page import TITLE_BAND, page, panel, quiet
from jaxnets.figures.palette import FAINT, GREY, INK
from jaxnets.figures.training_curves import BLUE, ORANGE, end_at_100


@dataclasses.dataclass(frozen=True)
class ComparedNetwork:
    """A trained network. Accuracies are shares of 1; `megabytes` (2²⁰ bytes) is the size of its weights in a file."""

    name: str
    parameters: int
    megabytes: float
    last_accuracy: float
    best_accuracy: float
    seconds_per_epoch: float
    images_per_second: float


def comparison(networks: Sequence[ComparedNetwork], *, title: str = "", subtitle: str = "") -> Figure:
    """Draws a row for each network, the smallest first: accuracy, size and time."""
    rows = sorted(networks, key=lambda network: network.parameters)
    height = 0.42 * max(len(rows), 1)
    figure = page(13.4, height + 0.75 + TITLE_BAND, title, subtitle)
    places = np.arange(len(rows))[::-1]
    accuracy = quiet(panel(figure, 1.75, 0.35, 3.3, height), grid=False)
    for place, row in zip(places, rows, strict=True):
        ends = 100 * row.last_accuracy, 100 * row.best_accuracy
        accuracy.plot(ends, (place, place), color=FAINT, linewidth=3, solid_capstyle="round", zorder=0)
        accuracy.plot(ends[0], place, "o", color=ORANGE, markersize=6)
        accuracy.plot(ends[1], place, "o", markerfacecolor="white", markeredgecolor=BLUE, markersize=8, zorder=0)
    accuracy.set_yticks(places, [row.name for row in rows], fontsize=10, color=INK)
    accuracy.margins(x=0.08)
    end_at_100(accuracy, "x")
    accuracy.text(0, 1.06, "test accuracy, %:", transform=accuracy.transAxes, fontsize=10, fontweight="bold", color=INK)
    accuracy.text(0.5, 1.06, "last", transform=accuracy.transAxes, fontsize=10, fontweight="bold", color=ORANGE)
    accuracy.text(0.63, 1.06, "best", transform=accuracy.transAxes, fontsize=10, fontweight="bold", color=BLUE)
    columns: tuple[tuple[str, Callable[[ComparedNetwork], float], str], ...] = (
        ("million parameters", lambda row: row.parameters / 1e6, "{:.2f}"),
        ("megabytes", lambda row: row.megabytes, "{:.1f}"),
        ("seconds an epoch", lambda row: row.seconds_per_epoch, "{:.1f}"),
        ("images a second", lambda row: row.images_per_second, "{:,.1f}"),
    )
    for column, (name, value, form) in enumerate(columns):
        axes = quiet(panel(figure, 5.45 + 1.98 * column, 0.35, 1.35, height), grid=False)
        values = [value(row) for row in rows]
        axes.barh(places, values, height=0.45, color=BLUE, alpha=0.75)
        for place, number in zip(places, values, strict=True):
            axes.annotate(
                form.format(number), (number, place), (4, 0), textcoords="offset points", va="center", color=GREY
            )
        axes.set_yticks([])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.text(0, 1.06, name, transform=axes.transAxes, fontsize=10, fontweight="bold", color=INK)
    for axes in figure.axes:
        axes.set_ylim(-0.6, len(rows) - 0.4)
    return figure
