"""The angle of each embedding to its own class weight, and to the nearest other one."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxnets.figures.page import TITLE_BAND, page, panel, quiet
from jaxnets.figures.palette import ALARM, GREY, INK

TARGET, OTHERS, NEAREST = "#1f6fc2", "#b5bcc4", "#e0700f"
BIN_DEGREES = 2


def angle_histograms(
    embeddings: Float[np.ndarray, "N D"],
    class_weights: Float[np.ndarray, "C D"],
    labels: Integer[np.ndarray, "N"],
    *,
    margin: float | None = None,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draws two histograms over degrees, for embeddings of any dimension.

    Left: the angle θ_y to the target's class weight, the angle to the nearest other one, and all angles to others, each
    histogram scaled to its own peak. Right: the lead, nearest other minus θ_y, as shares of all points; a point left of
    0 is misclassified. The outermost bars include the points further out. Bins are 2° wide.

    Args:
        margin: m of an additive angular margin, in radians. The right panel marks it, and gives the share of points
            whose lead exceeds it: these are classified correctly with the margin too.
    """
    theta = angles_between(embeddings, class_weights)
    defined = np.isfinite(theta).all(axis=1)
    theta = theta[defined]
    own = np.asarray(labels)[defined][:, None] == np.arange(len(class_weights))
    target, others = theta[own], theta[~own]
    nearest = np.where(own, np.inf, theta).min(axis=1)

    figure = page(9.2, 3.9 + TITLE_BAND, title, subtitle)
    left = _histogram_axes(figure, 0.35, 3.9, "angle to a class weight, ° (each scaled to its own peak)")
    left.set_yticks([])
    edges = np.arange(0, 180 + BIN_DEGREES, BIN_DEGREES)
    for values, colour in ((others, OTHERS), (nearest, NEAREST), (target, TARGET)):
        # There are C − 1 times as many angles to others as to the target: one scale would flatten the target's.
        counts = np.histogram(values, edges)[0]
        _fill(left, counts / max(counts.max(), 1), edges, colour)
    left.set_xlim(0, 180)
    left.set_xticks(range(0, 181, 30))
    _legend(left, [("target", TARGET), ("nearest other", NEAREST), ("all others", GREY)])

    right = _histogram_axes(figure, 4.95, 3.9, "lead: nearest other − target, °")
    lead = nearest - target
    low, high = np.percentile(lead, [0.5, 99.5]) if len(lead) else (0.0, 0.0)
    edges = np.arange(_down(min(low, -20)), -_down(-max(high, 20)) + BIN_DEGREES, BIN_DEGREES)
    counts = np.histogram(lead.clip(edges[0], edges[-1]), edges)[0] / max(len(lead), 1)
    right.yaxis.set_major_locator(MaxNLocator(4))
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    _fill(right, np.where(edges[:-1] >= 0, counts, 0), edges, TARGET)
    _fill(right, np.where(edges[:-1] < 0, counts, 0), edges, ALARM)
    right.axvline(0, color=INK, linewidth=1)
    notes = [(f"{_share(lead > 0)} correct", TARGET)]
    if margin is not None:
        right.set_xlabel(f"{right.get_xlabel()} (dashed: the margin, {math.degrees(margin):.1f}°)")
        right.axvline(math.degrees(margin), color=INK, linewidth=1.2, linestyle="--", gid="margin")
        notes.append((f"{_share(lead > math.degrees(margin))} beyond the margin", INK))
    _legend(right, notes)
    return figure


def angles_between(
    embeddings: Float[np.ndarray, "N D"], class_weights: Float[np.ndarray, "C D"]
) -> Float[np.ndarray, "N C"]:
    """Angles in degrees; NaN for vectors that are zero or not finite."""

    def units(vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors, np.float64)
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        usable = np.isfinite(largest) & (largest > 0)
        scaled = np.divide(vectors, largest, out=np.full_like(vectors, np.nan), where=usable)
        return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)

    return np.degrees(np.arccos(np.clip(units(embeddings) @ units(class_weights).T, -1, 1)))


def _histogram_axes(figure: Figure, left: float, width: float, label: str) -> Axes:
    axes = quiet(panel(figure, left, 0.6, width, 2.95), grid=False)
    axes.set_xlabel(label, fontsize=10, color=GREY)
    return axes


def _down(degrees: float | int) -> int:
    return BIN_DEGREES * math.floor(degrees / BIN_DEGREES)


def _fill(axes: Axes, heights: np.ndarray, edges: np.ndarray, colour: str) -> None:
    axes.stairs(heights, edges, fill=True, color=colour, alpha=0.5, linewidth=0)
    axes.stairs(np.where(heights > 0, heights, np.nan), edges, color=colour, linewidth=1)


def _legend(axes: Axes, notes: Sequence[tuple[str, str]]) -> None:
    """Coloured words side by side, above the bars."""
    x = 0.0
    for text, colour in notes:
        axes.text(x, 1.04, text, transform=axes.transAxes, fontsize=10, fontweight="bold", color=colour)
        x += 0.024 * len(text) + 0.05


def _share(condition: np.ndarray) -> str:
    return f"{100 * condition.mean():.2f} %" if len(condition) else "none"
