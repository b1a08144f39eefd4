"""Curves of recognition: ROC, CMC, the cosines of pairs, and figures over the epochs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from jaxnets.figures.page import TITLE_BAND, page, panel, quiet
from jaxnets.figures.palette import ALARM, FAINT, GREY, INK, class_colours
from jaxnets.figures.training_curves import BLUE, ORANGE, end_at_100

_POINTS = 600  # of a drawn curve
_BINS = 120  # of a histogram of cosines
_WIDTH, _HEIGHT = 5.6, 3.6  # of a panel, in inches
_LINE = 0.062  # of a panel's height, between two names


@dataclasses.dataclass(frozen=True)
class Series:
    """A figure over the epochs: a value of 0 … 1 for each, and the ends of its interval; NaN where there is none."""

    values: Float[np.ndarray, "E"]
    low: Float[np.ndarray, "E"]
    high: Float[np.ndarray, "E"]


def roc(
    curves: Mapping[str, tuple[Float[np.ndarray, "P"], Float[np.ndarray, "P"]]],
    *,
    smallest_far: float,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draws the true acceptance rate over the false acceptance rate, the latter on a log axis.

    Args:
      curves: by name, FAR and TAR, ascending (`jaxnets.recognition.Roc`); a single one is not named.
      smallest_far: where the axis begins; smaller rates would rest on too few errors.
      title: above the figure.
      subtitle: below the title.
    """
    figure = page(_WIDTH + 2.0, _HEIGHT + 1.3 + TITLE_BAND, title, subtitle)
    axes = quiet(panel(figure, 0.75, 0.65, _WIDTH, _HEIGHT))
    _heading(axes, "true acceptance rate, %")
    grid = np.geomspace(smallest_far, 1, _POINTS)
    axes.plot(grid, 100 * grid, color=FAINT, linewidth=1.2, linestyle="--")  # chance
    ends = []
    for (name, (far, tar)), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        reached = tar[np.searchsorted(far, grid, side="right") - 1]
        axes.plot(grid, 100 * reached, color=colour, linewidth=1.8)
        ends.append((100 * float(reached[0]), name, colour))
    axes.set_xscale("log")
    axes.set_xlim(smallest_far, 1)
    axes.set_ylim(0, 103)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-"))
    )
    axes.set_xlabel("false acceptance rate", fontsize=9.5, color=GREY)
    if len(curves) > 1:
        _legend(axes, [(name, colour) for _, name, colour in sorted(ends, key=lambda end: -end[0])])
    return figure


def cosine_distributions(
    thresholds: Float[np.ndarray, "P"],
    far: Float[np.ndarray, "P"],
    tar: Float[np.ndarray, "P"],
    *,
    marked: Mapping[str, float] | None = None,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draws how the cosines of genuine and of impostor pairs are distributed, each as shares of its own kind.

    Args:
      thresholds: descending, the first ∞ (`jaxnets.recognition.Roc`).
      far: the share of impostor pairs that reach each threshold.
      tar: the share of genuine pairs.
      marked: thresholds to mark, by name.
      title: above the figure.
      subtitle: below the title.
    """
    figure = page(_WIDTH + 2.0, _HEIGHT + 1.3 + TITLE_BAND, title, subtitle)
    axes = quiet(panel(figure, 0.75, 0.65, _WIDTH, _HEIGHT))
    _heading(axes, "share of pairs, %")
    edges = np.linspace(math.floor(20 * thresholds[-1]) / 20, 1, _BINS + 1)
    places = np.clip(np.searchsorted(edges, thresholds[1:], side="right") - 1, 0, _BINS - 1)
    highest = 0.0
    for rates, name, colour in ((far, "impostors", ORANGE), (tar, "genuine", BLUE)):
        shares = 100 * np.bincount(places, np.diff(rates), minlength=_BINS)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(shares, edges, color=colour, linewidth=1.4)
        top = int(np.argmax(shares))
        highest = max(highest, float(shares[top]))
        centre = (edges[top] + edges[top + 1]) / 2
        axes.annotate(
            name, (centre, shares[top]), (0, 5), textcoords="offset points", ha="center", color=colour, weight="bold"
        )
    heights = (1.14 + 0.07 * len(marked or {})) * highest  # the names of thresholds stand above both distributions
    for i, (name, threshold) in enumerate((marked or {}).items()):
        axes.axvline(threshold, color=GREY, linewidth=1, linestyle=":")
        side = "right" if threshold > 0.8 else "left"
        axes.text(
            threshold, heights - 0.07 * highest * (i + 0.1), f" {name} ", fontsize=8.5, color=GREY, va="top", ha=side
        )
    axes.set_xlim(edges[0], 1.005)
    axes.set_ylim(0, heights)
    axes.set_xlabel("cosine", fontsize=9.5, color=GREY)
    return figure


def cmc(curves: Mapping[str, Sequence[float]], *, title: str = "", subtitle: str = "") -> Figure:
    """Draws the cumulative match characteristic: the share of probes whose own template is among the k nearest.

    Args:
      curves: by name, the shares for k = 1, 2, 3, …; a single one is not named.
      title: above the figure.
      subtitle: below the title.
    """
    figure = page(_WIDTH + 2.0, _HEIGHT + 1.3 + TITLE_BAND, title, subtitle)
    axes = quiet(panel(figure, 0.75, 0.65, _WIDTH, _HEIGHT))
    _heading(axes, "probes identified within the first k, %")
    ends = []
    for (name, shares), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        ranks, percents = np.arange(1, len(shares) + 1), 100 * np.asarray(shares)
        axes.plot(ranks, percents, color=colour, linewidth=1.8, marker="o" if len(shares) <= 25 else "", markersize=3.5)
        ends.append((float(percents[0]), name, colour))
        if len(curves) == 1:
            note = f"rank 1: {percents[0]:.1f} %"
            axes.plot(1, percents[0], "o", color=colour, markersize=5)
            axes.annotate(note, (1, percents[0]), (9, -3), textcoords="offset points", color=colour, weight="bold")
    axes.margins(x=0.02, y=0.08)
    axes.autoscale_view()
    end_at_100(axes, "y")
    longest = max(map(len, curves.values()))
    axes.set_xticks([1, *(tick for tick in range(5, longest + 1, 5 if longest <= 50 else 10))])
    axes.set_xlabel("k", fontsize=9.5, color=GREY)
    if len(curves) > 1:
        _legend(axes, [(name, colour) for _, name, colour in sorted(ends, key=lambda end: -end[0])])
    return figure


def figures_over_epochs(
    losses: Float[np.ndarray, "E"], panels: Mapping[str, Mapping[str, Series]], *, title: str = "", subtitle: str = ""
) -> Figure:
    """Draws the training loss, and beside it a panel for each group of figures, with their intervals.

    Args:
      losses: of each epoch.
      panels: by heading, the figures by name.
      title: above the figure.
      subtitle: below the title.
    """
    wide = 4.6
    figure = page(wide * (1 + len(panels)) + 0.2, 4.05 + TITLE_BAND, title, subtitle)
    epochs = np.arange(1, len(losses) + 1)
    for place, (heading, series) in enumerate([("training loss", {}), *panels.items()]):
        axes = quiet(panel(figure, 0.65 + wide * place, 0.6, 3.0, 2.95))
        _heading(axes, heading)
        marker = "o" if len(epochs) <= 25 else ""
        if not place:
            axes.plot(epochs, losses, color=GREY, linewidth=1.8, marker=marker, markersize=3.5)
        ends = []
        for (name, each), colour in zip(series.items(), _colours(len(series)), strict=True):
            if not np.isfinite(each.values).any():
                continue
            axes.fill_between(epochs, 100 * each.low, 100 * each.high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(epochs, 100 * each.values, color=colour, linewidth=1.8, marker=marker, markersize=3.5)
            ends.append((100 * float(each.values[np.isfinite(each.values)][-1]), name, colour))
        axes.margins(x=0.03, y=0.08)
        axes.autoscale_view()
        if place:
            end_at_100(axes, "y")
            _names_at_ends(axes, ends)
        axes.set_xlabel("epoch", fontsize=9.5, color=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(epochs) == 1:
            axes.set_xticks(epochs)
    return figure


def _heading(axes: Axes, words: str) -> None:
    axes.text(0, 1.06, words, transform=axes.transAxes, fontsize=11, fontweight="bold", color=INK, parse_math=False)


def _colours(count: int) -> Sequence[str | tuple[float, ...]]:
    if count <= 3:
        return [BLUE, ORANGE, ALARM][:count]
    return [*map(tuple, class_colours(count).tolist())]


def _legend(axes: Axes, names: Sequence[tuple[str, str | tuple[float, ...]]]) -> None:
    """The names beside the panel, in their colours."""
    for i, (name, colour) in enumerate(names):
        where: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "parse_math": False}
        axes.text(1.02, 1 - i * _LINE, name, fontsize=9.5, fontweight="bold", color=colour, **where)


def _names_at_ends(axes: Axes, ends: Sequence[tuple[float, str, str | tuple[float, ...]]]) -> None:
    """Writes each line's name at its end, all at least a line of text apart."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0])
    heights = [(value - low) / (high - low) for value, _, _ in ordered]
    step = 0.075
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    heights = [min(height, 1 - step * (len(heights) - 1 - i)) for i, height in enumerate(heights)]
    for (_, name, colour), height in zip(ordered, heights, strict=True):
        where: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "parse_math": False}
        axes.text(1.02, height, name, fontsize=9.5, fontweight="bold", color=colour, **where)
