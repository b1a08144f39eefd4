"""One share for each of several named groups, as bars."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxnets.figures.page import TITLE_BAND, page, panel, quiet, shortened
from jaxnets.figures.palette import FAINT, GREY, INK
from jaxnets.figures.training_curves import BLUE

_BAR = 0.32  # inches


def shares(groups: Mapping[str, tuple[float, int]], *, heading: str, title: str = "", subtitle: str = "") -> Figure:
    """Draws a bar for each group, the largest share first.

    Args:
      groups: by name, the share, of 0 … 1, and how many it is a share of.
      heading: the whole of which it is a share.
      title: above the figure.
      subtitle: below the title.
    """
    rows = sorted(groups.items(), key=lambda row: -row[1][0])
    height = _BAR * max(len(rows), 1)
    figure = page(8.6, height + 0.75 + TITLE_BAND, title, subtitle)
    axes = quiet(panel(figure, 2.9, 0.35, 4.2, height), grid=False)
    places = np.arange(len(rows))[::-1]
    axes.barh(places, 100.0, height=0.6, color=FAINT, alpha=0.35)
    axes.barh(places, [100 * share for _, (share, _) in rows], height=0.6, color=BLUE, alpha=0.8)
    for place, (_, (share, count)) in zip(places, rows, strict=True):
        said = f"{100 * share:.1f} % of {count:,}"
        axes.annotate(said, (100, place), (6, 0), textcoords="offset points", va="center", color=GREY, fontsize=9.5)
    axes.set_yticks(places, shortened([name for name, _ in rows], 30), fontsize=10, color=INK)
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.text(0, 1.0, heading, transform=axes.transAxes, fontsize=10, fontweight="bold", color=INK, va="bottom")
    return figure
