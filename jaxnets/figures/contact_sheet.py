"""Many runs on one sheet, to compare them at a glance."""

import dataclasses
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.figure import Figure

from jaxnets.figures.page import TITLE_BAND, page, panel, shortened
from jaxnets.figures.palette import ALARM, GREY, INK
from jaxnets.figures.plane import draw_plane, scatter_radius

COLUMNS = 4
CAPTION_LETTERS = 42  # on a line of a caption
# A picture of three inches shows no more points than this.
SHOWN_POINTS = 3000
VERDICT_COLOURS = {"separated": "#1a7f37", "overlapping": "#b35900", "collapsed": ALARM, "diverged": ALARM}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One run: its test embeddings [N, 2], labels [N] and class weights [C, 2], and the verdicts on it.

    `verdict` is the word of `separability`; `author_verdict` is another person's, about another run of the same recipe.
    """

    name: str
    embeddings: Float[np.ndarray, "N 2"]
    labels: Integer[np.ndarray, "N"]
    class_weights: Float[np.ndarray, "C 2"]
    accuracy: float  # a share of 1; NaN for none
    verdict: str
    author_verdict: str = ""


def sheet(panels: Sequence[Panel], *, classes: Sequence[str], title: str = "", subtitle: str = "") -> Figure:
    """Draws a small scatter of each run, four in a row, each scaled to its own embeddings."""
    columns = min(COLUMNS, max(len(panels), 1))
    rows = max(math.ceil(len(panels) / columns), 1)
    width, height = 3.1, 4.05
    figure = page(columns * width + 0.2, rows * height + TITLE_BAND + 0.15, title, subtitle)
    for place, shown in enumerate(panels):
        left = 0.1 + place % columns * width
        bottom = (rows - 1 - place // columns) * height + 0.1
        axes = panel(figure, left, bottom, width, width)
        picked = np.random.default_rng(0).permutation(len(shown.labels))[:SHOWN_POINTS]
        draw_plane(
            axes,
            np.asarray(shown.embeddings)[picked],
            np.asarray(shown.labels)[picked],
            shown.class_weights,
            classes=shortened(classes, 6),
            radius=scatter_radius(shown.embeddings),
            point_size=3.0,
            font_size=9.0,
            line_width=0.8,
        )
        _caption(figure, shown, left + 0.12, bottom + width + 0.72, width - 0.24)
    return figure


def _caption(figure: Figure, shown: Panel, left: float, top: float, width: float) -> None:
    page_width, page_height = figure.get_size_inches()

    def write(x: float, y: float, text: str, side: str, size: float | int, colour: str, weight: str) -> None:
        figure.text(
            x / page_width,
            y / page_height,
            text,
            ha=side,
            va="top",
            fontsize=size,
            color=colour,
            fontweight=weight,
            parse_math=False,
        )

    accuracy = f"{100 * shown.accuracy:.2f} %" if math.isfinite(shown.accuracy) else "–"
    write(left, top, shown.name, "left", 12, INK, "bold")
    write(left + width, top, accuracy, "right", 12, INK, "bold")
    write(left, top - 0.22, shown.verdict, "left", 10, VERDICT_COLOURS.get(shown.verdict, INK), "bold")
    if shown.author_verdict:
        lines = textwrap.wrap(f"author: {shown.author_verdict}", CAPTION_LETTERS, max_lines=2, placeholder=" …")
        for place, line in enumerate(lines):
            write(left, top - 0.42 - 0.15 * place, line, "left", 9, GREY, "normal")
