"""The sheet of paper: a Figure with its title, and its way to PNG bytes or pixels."""

import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxnets.figures.palette import FAINT, GREY, INK

INCH = 100  # pixels, on the screen
TITLE_BAND = 0.62  # inches kept above the picture for title and subtitle


def page(width: float | int, height: float | int, title: str = "", subtitle: str = "") -> Figure:
    """A white figure of width × height inches at 100 pixels an inch, with its title at the top left."""
    figure = Figure(figsize=(width, height), dpi=INCH, facecolor="white")
    FigureCanvasAgg(figure)
    left, top = 0.2 / width, 1 - 0.16 / height
    figure.text(left, top, title, ha="left", va="top", fontsize=15, fontweight="bold", color=INK, parse_math=False)
    below = top - 0.27 / height
    figure.text(left, below, subtitle, ha="left", va="top", fontsize=10.5, color=GREY, parse_math=False)
    return figure


def panel(figure: Figure, left: float | int, bottom: float | int, width: float | int, height: float | int) -> Axes:
    """Axes at a place given in inches from the bottom left corner."""
    page_width, page_height = figure.get_size_inches()
    return figure.add_axes((left / page_width, bottom / page_height, width / page_width, height / page_height))


def quiet(axes: Axes, *, grid: bool = True) -> Axes:
    """Removes the parts of a chart's frame that reading it does not need."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=9.5, labelcolor=GREY, pad=5)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def shortened(names: Iterable[object], length: int = 14) -> list[str]:
    """Names cut to at most `length` characters, the last of which is then an ellipsis.

    >>> shortened(["cat", "a long class name"], 7)
    ['cat', 'a long…']
    """
    words = [str(name) for name in names]
    return [word if len(word) <= length else word[: length - 1].rstrip() + "…" for word in words]


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # The Software tag would change the bytes with each release of matplotlib.
    figure.savefig(buffer, format="png", dpi=INCH, metadata={"Software": None})
    return buffer.getvalue()


def to_pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
