"""Queries, and beside each the pictures that are nearest to it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    figure = page(width, rows * (_SIDE + _TEXT) + TITLE_BAND + 0.2, title, subtitle)
    for place, each in enumerate(found):
        left = 0.2 + place // rows * block
        bottom = (rows - 1 - place % rows) * (_SIDE + _TEXT) + _TEXT
        _picture(panel(figure, left, bottom, _SIDE, _SIDE), each.query, INK, 1.0, [each.name])
        for k, (picture, name) in enumerate(zip(each.pictures, each.names, strict=True)):
            axes = panel(figure, left + 0.2 + (k + 1) * (_SIDE + _GAP), bottom, _SIDE, _SIDE)
            frame = FAINT if each.matches is None else RIGHT if each.matches[k] else ALARM
            _picture(axes, picture, frame, 2.4, [f"{each.cosines[k]:.3f}", name])
    return figure


def _picture(
    axes: Axes, picture: UInt8[np.ndarray, "H W C"] | None, frame: str, thickness: float, words: Sequence[str]
) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(frame)
        spine.set_linewidth(thickness)
    if picture is not None:
        shown = picture[:, :, 0] if picture.shape[2] == 1 else picture
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
    for line, text in enumerate(shortened(words, _LETTERS)):
        where: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "ha": "left", "parse_math": False}
        axes.text(0, -0.07 - 0.19 * line, text, fontsize=7, color=GREY if line else INK, **where)
