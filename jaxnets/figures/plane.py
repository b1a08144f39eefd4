"""The plane itself: the embeddings as they lie, with the class weights as rays."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Complex, Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from jaxnets.figures.page import TITLE_BAND, page, panel, shortened
from jaxnets.figures.palette import FAINT, GREY, class_colours, darker
from jaxnets.separability import directions

# The radius of the picture is at most this many times the 99th percentile of the norms: it shows whole petals, and
# leaves out a few far outliers.
OUTLIER = 1.08
# In radii: the ends of points and rays, the names, and the edge of the picture where the names are short.
TIP, NAMES, EDGE = 1.02, 1.08, 1.17
NAME_LENGTH = 11


def scatter(
    embeddings: Float[np.ndarray, "N 2"],
    labels: Integer[np.ndarray, "N"],
    class_weights: Float[np.ndarray, "C 2"],
    *,
    classes: Sequence[str],
    title: str = "",
    subtitle: str = "",
    radius: float | int | None = None,
) -> Figure:
    """Draws embeddings [N, 2], one colour a class, and each class weight as a ray that ends in the class's name.

    Args:
        radius: the norm at which the rays end; by default `scatter_radius(embeddings)`. Pictures of one radius are
            comparable, as the frames of an animation must be.
    """
    radius = scatter_radius(embeddings) if radius is None else radius
    figure = page(8, 8 + TITLE_BAND, title, subtitle)
    axes = panel(figure, 0, 0, 8, 8)
    names = shortened(classes, NAME_LENGTH)
    beyond = draw_plane(
        axes, embeddings, labels, class_weights, classes=names, radius=radius, font_size=name_size(names)
    )
    *inner, outer = (f"{norm:g}" for norm in ring_norms(radius))
    figure.text(0.02, 0.015, f"rings at norm {', '.join(inner)} and {outer}", fontsize=9, color=GREY)
    if beyond:
        note = f"{beyond:,} of {len(labels):,} points lie further out and are not shown"
        figure.text(1 - 0.02, 0.015, note, ha="right", fontsize=9, color=GREY)
    return figure


def scatter_radius(embeddings: Float[np.ndarray, "N 2"]) -> float:
    """The norm just beyond the petals: the largest norm, unless it is an outlier. 1 if there is nothing to show."""
    embeddings = np.asarray(embeddings, np.float64)
    norms = np.hypot(embeddings[:, 0], embeddings[:, 1])
    norms = norms[np.isfinite(norms)]
    radius = min(float(norms.max()), OUTLIER * float(np.percentile(norms, 99))) if len(norms) else 0.0
    return radius if radius > 0 else 1.0


def draw_plane(
    axes: Axes,
    embeddings: Float[np.ndarray, "N 2"],
    labels: Integer[np.ndarray, "N"],
    class_weights: Float[np.ndarray, "C 2"],
    *,
    classes: Sequence[str],
    radius: float | int,
    point_size: float = 7.0,
    font_size: float = 14.0,
    line_width: float = 1.3,
) -> int:
    """Draws onto axes, and returns the number of points left out: beyond the rays' ends, or not finite."""
    embeddings = np.asarray(embeddings, np.float64)
    labels = np.asarray(labels)
    colours = class_colours(len(class_weights))
    limit = radius * max(EDGE, NAMES * room_for(axes, classes, font_size))
    frame(axes, limit)
    for norm in ring_norms(radius):
        axes.add_patch(Circle((0, 0), norm, fill=False, edgecolor=FAINT, linewidth=0.8, zorder=0))

    shown = np.hypot(*embeddings.T) <= radius * TIP  # further out they would hide the names
    # In shuffled order, so that no class hides another where they overlap.
    order = np.random.default_rng(0).permutation(np.flatnonzero(shown))
    x, y = embeddings[order].T
    axes.scatter(x, y, s=point_size, c=colours[labels[order]], alpha=0.7, linewidths=0, zorder=2)

    rays = rays_of(class_weights)
    draw_rays(axes, rays, colours, start=0.0, end=radius * TIP, line_width=line_width)
    draw_names(axes, rays, classes, colours, start=radius * TIP, radius=radius * NAMES, font_size=font_size)
    return int(len(labels) - shown.sum())


def rays_of(class_weights: Float[np.ndarray, "C 2"]) -> Complex[np.ndarray, "C"]:
    """Unit complex numbers; 0, which is not drawn, for class weights that are zero or not finite."""
    class_weights = np.asarray(class_weights, np.float64)
    finite = np.isfinite(class_weights).all(axis=1, keepdims=True)
    return directions(np.where(finite, class_weights, 0.0))


def frame(axes: Axes, limit: float | int) -> None:
    """An empty square of ±limit around the origin, without ticks or border."""
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_axis_off()


def name_size(names: Sequence[str]) -> float:
    """In points; words are set smaller than digits."""
    return 14.0 if max(map(len, names), default=0) < 4 else 11.0


def room_for(axes: Axes, names: Sequence[str], font_size: float) -> float:
    """The half-width of the axes that keeps the longest name inside, as a multiple of the names' radius."""
    longest = max(map(len, names), default=0)
    half_width = axes.get_window_extent().width / axes.figure.dpi / 2
    # A bold letter is about 0.0095 inches wide a point.
    return 1 / (1 - min(0.0095 * font_size * longest / half_width, 0.5)) if longest > 2 else 1.0


def draw_rays(
    axes: Axes, rays: np.ndarray, colours: np.ndarray, *, start: float, end: float, line_width: float
) -> None:
    casing = [withStroke(linewidth=line_width * 2.4, foreground="white", alpha=0.8)]
    for ray, colour in zip(rays, darker(colours), strict=True):
        if ray != 0:
            x, y = np.array([start, end]) * ray.real, np.array([start, end]) * ray.imag
            axes.plot(x, y, color=colour, linewidth=line_width, path_effects=casing, zorder=3, gid="ray")


def draw_names(
    axes: Axes,
    rays: np.ndarray,
    names: Sequence[str],
    colours: np.ndarray,
    *,
    start: float,
    radius: float,
    font_size: float,
) -> None:
    """Writes each name at its ray's end. Where rays crowd, names move apart, and a thin line leads back."""
    kept = np.flatnonzero(rays)
    font_size = font_size * min(1.0, (24 / max(len(kept), 1)) ** 0.5)
    angles = np.angle(rays[kept])
    for index, angle, place in zip(
        kept.tolist(), angles, spread_apart(angles, math.radians(0.42 * font_size)), strict=True
    ):
        colour = darker(colours[index])
        x, y = radius * math.cos(place), radius * math.sin(place)
        if abs(place - angle) > 0.01:
            tip = start * np.exp(1j * angle)
            axes.plot([tip.real, 0.98 * x], [tip.imag, 0.98 * y], color=colour, linewidth=0.6, alpha=0.7, zorder=3)
        # Long names grow away from the circle, short ones sit centred on the ray.
        side = "center" if len(names[index]) < 3 or abs(x) < 0.3 * radius else "left" if x > 0 else "right"
        halo = [withStroke(linewidth=3, foreground="white")]
        axes.text(
            x,
            y,
            names[index],
            ha=side,
            va="center",
            fontsize=font_size,
            fontweight="bold",
            color=colour,
            path_effects=halo,
            zorder=4,
            gid="name",
            parse_math=False,
        )


def spread_apart(angles: Float[np.ndarray, "C"], separation: float) -> Float[np.ndarray, "C"]:
    """Angles in radians, pushed apart in pairs until neighbours on the circle are `separation` apart."""
    if len(angles) < 2:
        return angles
    separation = min(separation, 0.95 * 2 * math.pi / len(angles))
    order = np.argsort(angles, kind="stable")
    placed = angles[order].astype(np.float64)
    for _ in range(200):
        following = np.roll(placed, -1)
        following[-1] += 2 * math.pi
        push = np.maximum(separation - (following - placed), 0) / 2
        if np.max(push) < 1e-4:
            break
        placed += np.roll(push, 1) - push
    result = np.empty_like(placed)
    result[order] = placed
    return result


def ring_norms(radius: float | int) -> list[float]:
    """Two to four round numbers up to the radius.

    >>> ring_norms(20), ring_norms(35)
    ([10.0, 20.0], [10.0, 20.0, 30.0])
    """
    for most in (3, 4):
        ticks = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(0, radius)
        norms = [float(tick) for tick in ticks if 0 < tick <= radius]
        if len(norms) > 1:
            break
    return norms
