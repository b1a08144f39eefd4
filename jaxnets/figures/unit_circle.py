"""The directions alone: the place of each class on the unit circle, and the gaps between class weights."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Complex, Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from matplotlib.patheffects import withStroke

from jaxnets.figures.page import TITLE_BAND, page, panel, shortened
from jaxnets.figures.palette import ALARM, FAINT, GREY, INK, class_colours, darker
from jaxnets.figures.plane import NAME_LENGTH, draw_names, draw_rays, frame, name_size, rays_of, room_for
from jaxnets.separability import directions, neighbour_gaps

BAND = (0.87, 0.985)  # radii between which the points are scattered
RIDGE = (1.015, 0.5)  # base radius of the densities, and height of the highest
NAMES, EDGE = 1.63, 1.76
BINS = 720
SMOOTHING = math.radians(1.5)


def circle(
    embeddings: Float[np.ndarray, "N 2"],
    labels: Integer[np.ndarray, "N"],
    class_weights: Float[np.ndarray, "C 2"],
    *,
    classes: Sequence[str],
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draws each embedding [N, 2] at its angle, and around the circle each class's density over the angle.

    Inside, the rays are the class weights [C, 2], and the numbers are the gaps between neighbours in degrees, red
    where a gap is below half of the ideal 360°/C. Where densities overlap, classes overlap.
    """
    embeddings = np.asarray(embeddings, np.float64)
    finite = np.isfinite(embeddings).all(axis=1)
    points = directions(embeddings[finite])
    kept = points != 0
    points, labels = points[kept], np.asarray(labels)[finite][kept]
    rays = rays_of(class_weights)
    colours = class_colours(len(rays))

    figure = page(8, 8 + TITLE_BAND, title, subtitle)
    axes = panel(figure, 0, 0, 8, 8)
    names = shortened(classes, NAME_LENGTH)
    frame(axes, max(EDGE, NAMES * room_for(axes, names, name_size(names))))
    for radius, colour in ((1.0, GREY), (0.52, FAINT)):
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=colour, linewidth=0.8, zorder=1))
    _draw_points(axes, points, labels, colours)
    _draw_densities(axes, points, labels, colours)
    draw_rays(axes, rays, colours, start=0.0, end=1.0, line_width=1.3)
    _draw_gaps(axes, rays)
    _draw_leaders(axes, rays, colours)
    draw_names(axes, rays, names, colours, start=NAMES - 0.06, radius=NAMES, font_size=name_size(names))
    gaps = np.degrees(neighbour_gaps(rays))
    note = f"gaps {gaps.min():.1f}° to {gaps.max():.1f}°, ideal {360 / len(rays):.3g}°"
    figure.text(0.02, 0.015, note, fontsize=9, color=GREY)
    return figure


def _draw_points(axes: Axes, points: Complex[np.ndarray, "N"], labels: np.ndarray, colours: np.ndarray) -> None:
    noise = np.random.default_rng(0)
    strewn = points * noise.uniform(*BAND, len(points))
    order = noise.permutation(len(points))
    axes.scatter(
        strewn.real[order], strewn.imag[order], s=3, c=colours[labels[order]], alpha=0.6, linewidths=0, zorder=2
    )


def _draw_densities(axes: Axes, points: Complex[np.ndarray, "N"], labels: np.ndarray, colours: np.ndarray) -> None:
    densities = angular_densities(points, labels, len(colours))
    # A power below 1: a sharp petal is many times as dense as a blurred one, and both must be seen.
    heights = (densities / max(densities.max(), 1e-12)) ** 0.7
    base, height = RIDGE
    edges = np.exp(1j * (np.arange(BINS + 1) + 0.5) * 2 * math.pi / BINS)
    for c in np.argsort(-heights.max(axis=1), kind="stable"):
        ridge = np.append(heights[c], heights[c, 0])
        if not ridge.any():
            continue
        outline = edges * (base + height * ridge)
        ground = edges[::-1] * base
        corners = np.concatenate([outline, ground])
        shape = np.stack([corners.real, corners.imag], axis=1)
        # axes.fill would measure each outline for limits that are set already: half of the drawing time.
        axes.add_artist(Polygon(shape, facecolor=colours[c], alpha=0.3, linewidth=0, zorder=2))
        seen = np.where(ridge > 0.015, outline, np.nan)
        axes.plot(seen.real, seen.imag, color=darker(colours[c], 0.15), linewidth=1.1, zorder=2.5)


def angular_densities(
    points: Complex[np.ndarray, "N"], labels: Integer[np.ndarray, "N"], num_classes: int
) -> Float[np.ndarray, "C 720"]:
    """Points of each class in bins of half a degree, from angle 0 on, smoothed by a wrapped normal of 1.5°."""
    bins = np.floor(np.angle(points) / (2 * math.pi) * BINS).astype(np.int64) % BINS
    counts = np.bincount(labels * BINS + bins, minlength=num_classes * BINS).reshape(num_classes, BINS)
    frequencies = np.arange(BINS // 2 + 1)
    response = np.exp(-0.5 * (frequencies * SMOOTHING) ** 2)
    return np.fft.irfft(np.fft.rfft(counts, axis=1) * response, n=BINS, axis=1).clip(0)


def _draw_gaps(axes: Axes, rays: Complex[np.ndarray, "C"]) -> None:
    rays = rays[rays != 0]
    if len(rays) < 2:
        return
    starts = np.sort(np.angle(rays))
    ideal = 2 * math.pi / len(rays)
    for start, gap in zip(starts, neighbour_gaps(rays), strict=True):
        middle = start + gap / 2
        narrow = gap < 0.5 * ideal
        # A number is about a tenth of the radius wide; a narrower gap gets none.
        radius = 0.6 if gap > 0.2 else 0.78
        if gap < 0.1:
            continue
        axes.text(
            radius * math.cos(middle),
            radius * math.sin(middle),
            f"{math.degrees(gap):.0f}°",
            ha="center",
            va="center",
            fontsize=11 if gap > 0.2 else 8.5,
            color=ALARM if narrow else INK,
            fontweight="bold" if narrow else "normal",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=4,
            gid="gap",
        )


def _draw_leaders(axes: Axes, rays: Complex[np.ndarray, "C"], colours: np.ndarray) -> None:
    for ray, colour in zip(rays, darker(colours), strict=True):
        if ray != 0:
            line = ray * np.array([1.0, NAMES - 0.06])
            axes.plot(line.real, line.imag, color=colour, linewidth=0.6, alpha=0.6, zorder=1.5)
