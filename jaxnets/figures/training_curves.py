"""Loss, accuracy and gaps, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxnets.figures.page import TITLE_BAND, page, panel, quiet
from jaxnets.figures.palette import FAINT, GREY, INK

BLUE, ORANGE = "#1f6fc2", "#e0700f"
# From this many epochs on, a fitted trend says more than the single points.
TREND_EPOCHS = 12


def curves(history: Sequence[Mapping[str, Any]], *, title: str = "", subtitle: str = "") -> Figure:
    """Draws up to three panels: loss, accuracy, and the gaps between class weights.

    Args:
        history: one mapping an epoch, with any of the keys `epoch`, `train_loss`, `test_loss`, `train_accuracy`,
            `test_accuracy` (shares of 1), `smallest_gap_degrees`, `largest_gap_degrees` and `learning_rate`. A value
            may be None. From twelve epochs on the training loss is drawn faintly beside its fitted trend. Dotted lines
            mark the epochs at whose start the learning rate changed.
    """
    columns = {"loss": ("train_loss", "test_loss"), "accuracy, %": ("train_accuracy", "test_accuracy")}
    columns["gap between class weights, °"] = ("smallest_gap_degrees", "largest_gap_degrees")
    columns = {name: keys for name, keys in columns.items() if any(key in row for row in history for key in keys)}
    wide = max(len(columns), 1)
    figure = page(4.35 * wide + 0.3, 4.05 + TITLE_BAND, title, subtitle)
    epochs = _column(history, "epoch", np.arange(1, len(history) + 1))
    for place, (name, keys) in enumerate(columns.items()):
        axes = quiet(panel(figure, 0.65 + 4.35 * place, 0.6, 3.15, 2.95))
        axes.text(-0.06, 1.07, name, transform=axes.transAxes, fontsize=11, fontweight="bold", color=INK)
        factor = 100 if "%" in name else 1
        values = [factor * _column(history, key) for key in keys]
        for rate_change in epochs[1:][_changed(_column(history, "learning_rate"))]:
            axes.axvline(rate_change, color=FAINT, linewidth=1.2, linestyle=":", zorder=0)
        names = [key.split("_")[0] for key in keys]
        _draw_pair(axes, epochs, values, names, trend=name == "loss", percent=factor == 100)
        if keys[1] == "test_accuracy" and np.isfinite(values[1]).any():
            _mark_best(axes, epochs, values[1])
        axes.set_xlabel("epoch", fontsize=9.5, color=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(epochs) == 1:
            axes.set_xticks(epochs)
    return figure


def _column(history: Sequence[Mapping[str, Any]], key: str, missing: np.ndarray | None = None) -> np.ndarray:
    fallback = np.full(len(history), np.nan) if missing is None else missing
    values = [row.get(key, other) for row, other in zip(history, fallback, strict=True)]
    array = np.array([np.nan if value is None else value for value in values], np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _changed(rates: np.ndarray) -> np.ndarray:
    # With equal_nan, unknown rates did not change.
    return ~np.isclose(rates[1:], rates[:-1], rtol=1e-6, atol=0.0, equal_nan=True)


def _draw_pair(
    axes: Axes, epochs: np.ndarray, values: Sequence[np.ndarray], names: Sequence[str], *, trend: bool, percent: bool
) -> None:
    ends: list[tuple[float, str, str]] = []
    for series, name, colour in zip(values, names, (ORANGE, BLUE), strict=True):
        known = np.isfinite(series)
        if not known.any():
            continue
        marker = "o" if known.sum() <= 25 else ""
        faint = trend and name == "train" and known.sum() >= TREND_EPOCHS
        axes.plot(
            epochs,
            series,
            color=colour,
            linewidth=1.0 if faint else 1.8,
            alpha=0.4 if faint else 1,
            marker=marker,
            markersize=3.5,
            gid=name,
        )
        end = float(series[known][-1])
        if faint:
            fitted = smoothed(epochs[known], series[known])
            axes.plot(epochs[known], fitted, color=colour, linewidth=2.2, gid="trend")
            end = float(fitted[-1])
        ends.append((end, name, colour))
    axes.margins(x=0.03, y=0.1)
    axes.autoscale_view()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if percent:
        end_at_100(axes, "y")
    _name_lines(axes, ends)


def end_at_100(axes: Axes, which: Literal["x", "y"]) -> None:
    """Ends an axis of percentages just above 100, and its ticks at 100."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high > 100:
        ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, 100) if low <= tick <= 100]
        axes.set(**{f"{which}ticks": ticks, f"{which}lim": (low, 100 + 0.04 * (100 - low))})


def _name_lines(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes each line's name at its end, the two at least a line of text apart."""
    low, high = axes.get_ylim()
    heights = [(y - low) / (high - low) for y, _, _ in ends]
    if len(ends) == 2 and abs(heights[0] - heights[1]) < 0.07:
        middle, sign = sum(heights) / 2, 1 if heights[0] >= heights[1] else -1
        heights = [middle + sign * 0.035, middle - sign * 0.035]
    for (_, name, colour), height in zip(ends, heights, strict=True):
        axes.text(
            1.02, height, name, transform=axes.transAxes, va="center", fontsize=10, fontweight="bold", color=colour
        )


def _mark_best(axes: Axes, epochs: np.ndarray, accuracy: np.ndarray) -> None:
    best = int(np.nanargmax(accuracy))
    axes.plot(epochs[best], accuracy[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=BLUE)
    note = f"best {accuracy[best]:.2f} in epoch {epochs[best]:.0f}"
    axes.text(1.0, 1.07, note, transform=axes.transAxes, ha="right", fontsize=9.5, color=GREY)


def smoothed(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """A locally linear fit of y to x, weighted by a normal as wide as a twelfth of the range (Cleveland 1979)."""
    width = max((x[-1] - x[0]) / 12, 1e-12)
    distance = x[None] - x[:, None]
    weight = np.exp(-0.5 * (distance / width) ** 2)
    s0, s1, s2 = (np.sum(weight * distance**k, axis=1) for k in range(3))
    t0, t1 = weight @ y, np.sum(weight * distance * y, axis=1)
    return (s2 * t0 - s1 * t1) / (s0 * s2 - s1**2)
