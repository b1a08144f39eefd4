"""Queries, and beside each the pictures that are nearest to it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxnets.figures.page import TITLE_BAND, page, panel, shortened
from jaxnets.figures.palette import ALARM, FAINT, GREY, INK

RIGHT = "#1a7f37"
_SIDE, _GAP, _TEXT = 0.72, 0.13, 0.36  # inches: of a picture, between pictures, below them
_LETTERS = 13


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A query and its nearest pictures, best first.

    Attributes:
      query: its picture.
      name: the words below it.
      pictures: of the nearest; None for one that cannot be shown.
      names: the words below them.
      cosines: to the query.
      matches: which of them are of the query's class; None where that is not known.
    """

    query: UInt8[np.ndarray, "H W C"]
    name: str
    pictures: Sequence[UInt8[np.ndarray, "_ _ _"] | None]
    names: Sequence[str]
    cosines: Float[np.ndarray, "K"]
    matches: Bool[np.ndarray, "K"] | None = None


def nearest_sheet(found: Sequence[Found], *, columns: int = 2, title: str = "", subtitle: str = "") -> Figure:
    """Draws a row for each query: the query, and its nearest pictures, framed by whether they match."""
    longest = max((len(each.pictures) for each in found), default=1)
    columns = min(columns, max(len(found), 1))
    rows = max(math.ceil(len(found) / columns), 1)
    block = (longest + 1) * (_SIDE + _GAP) + 0.55
    width = max(columns * block + 0.1, 6.0)
    height = rows * (_SIDE + _TEXT) + TITLE_BAND + 0.2
    figure = page(width, height, title, subtitle)
    axes = panel(figure, 0, 0, width, height)  # one for all pictures: an Axes each would take seconds
    for place, each in enumerate(found):
        left = 0.2 + place // rows * block
        bottom = (rows - 1 - place % rows) * (_SIDE + _TEXT) + _TEXT
        _picture(axes, (left, bottom), each.query, INK, 1.0, [each.name])
        for k, (picture, name) in enumerate(zip(each.pictures, each.names, strict=True)):
            corner = (left + 0.2 + (k + 1) * (_SIDE + _GAP), bottom)
            frame = FAINT if each.matches is None else RIGHT if each.matches[k] else ALARM
            _picture(axes, corner, picture, frame, 2.4, [f"{each.cosines[k]:.3f}", name])
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    axes.axis("off")
    return figure


def _picture(
    axes: Axes,
    corner: tuple[float, float],
    picture: UInt8[np.ndarray, "H W C"] | None,
    frame: str,
    thickness: float,
    words: Sequence[str],
) -> None:
    """A picture in its frame, with words below; the corner is the lower left one, in inches."""
    left, bottom = corner
    if picture is not None:
        rows, columns, channels = picture.shape
        across, up = (_SIDE * side / max(rows, columns) for side in (columns, rows))
        x, y = left + (_SIDE - across) / 2, bottom + (_SIDE - up) / 2
        shown = picture[:, :, 0] if channels == 1 else picture
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=(x, x + across, y, y + up), aspect="auto")
    axes.add_patch(Rectangle(corner, _SIDE, _SIDE, fill=False, edgecolor=frame, linewidth=thickness, zorder=2))
    for line, text in enumerate(shortened(words, _LETTERS)):
        where: dict[str, Any] = {"va": "top", "ha": "left", "parse_math": False}
        axes.text(left, bottom - 0.05 - 0.137 * line, text, fontsize=7, color=GREY if line else INK, **where)
