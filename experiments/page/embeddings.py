"""The pages of the ArcLoss study: one run to look into, and several that play side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from experiments.page.document import document, flat, pack, sprite
from jaxnets.figures.palette import class_colours, darker
from jaxnets.figures.plane import rays_of, ring_norms, scatter_radius

FULL, EDGE = 32767, 1.2  # of a packed coordinate, at the picture's edge, which is at so many radii; as in plane.js
POINTS = 1_000_000  # of all epochs together, at most
SPRITES = 10_000
EPOCHS = 100
VARIANT_POINTS = 1_500  # of each epoch of one of several runs

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Frame:
    """An epoch as it is drawn. `subcenters` are all directions of each class where it has several."""

    line: Mapping[str, Any]
    embeddings: Float[np.ndarray, "N 2"]
    class_weights: Float[np.ndarray, "C 2"]
    subcenters: Float[np.ndarray, "C K 2"] | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    name: str
    frames: Sequence[Frame]
    labels: Int[np.ndarray, "N"]
    classes: Sequence[str]
    said: str = ""
    href: str = ""


def run_page(run: Run, images: Any, *, title: str, command: str, config: Mapping[str, Any]) -> bytes:
    """One run: the embedding through training, each point's picture, the curves, and how to run it again.

    Args:
      run: of the epochs to show; `spread` chooses them where there are many.
      images: of the points, as `sprite` takes them.
      title: of the page.
      command: the line that runs it again.
      config: shown as a table.
    """
    chosen = sample(len(run.labels), min(SPRITES, POINTS // len(run.frames)))
    last = run.frames[-1].line["epoch"]
    notes = [
        *([] if len(chosen) == len(run.labels) else [f"{len(chosen):,} of {len(run.labels):,} points"]),
        *([] if len(run.frames) == last else [f"{len(run.frames)} of {last} epochs"]),
    ]
    data = {
        "title": title,
        "run": {**_packed(run, chosen), "note": "shown: " + ", ".join(notes) if notes else ""},
        "lines": [flat_line(frame.line) for frame in run.frames],
        "sprite": sprite(images, chosen),
        "command": command,
        "config": flat(dict(config)),
    }
    return document(title, data, ["plane.js", "run.js"])


def variants_page(runs: Sequence[Run], *, title: str) -> bytes:
    """Several runs side by side, playing together."""
    each = [
        {
            "name": run.name,
            "said": run.said,
            "href": run.href,
            "run": _packed(run, sample(len(run.labels), VARIANT_POINTS)),
            "lines": [flat_line(frame.line) for frame in run.frames],
        }
        for run in runs
    ]
    note = f"{VARIANT_POINTS:,} points of each; a name leads to the run's own page"
    return document(title, {"title": title, "runs": each, "note": note}, ["plane.js", "variants.js"])


def _packed(run: Run, chosen: Int[np.ndarray, "M"]) -> dict[str, Any]:
    radius = max(scatter_radius(frame.embeddings) for frame in run.frames)
    colours = class_colours(len(run.classes))
    return {
        "count": len(chosen),
        "labels": pack(run.labels[chosen].astype(np.uint16)),
        "classes": [*run.classes],
        "radius": radius,
        "rings": ring_norms(radius),
        "colours": hexadecimal(colours),
        "darker": hexadecimal(darker(colours)),
        "bright": hexadecimal(1 - darker(1 - colours, 0.45)),
        "frames": [_packed_frame(frame, radius, chosen) for frame in run.frames],
    }


def _packed_frame(frame: Frame, radius: float, chosen: Int[np.ndarray, "M"]) -> dict[str, Any]:
    """Points beyond the picture are at its edge, where they are not drawn, but have their direction."""
    points = np.nan_to_num(frame.embeddings[chosen].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0) / (
        EDGE * radius
    )
    beyond = np.maximum(np.abs(points).max(axis=1, keepdims=True), 1.0)
    rays = rays_of(frame.class_weights)
    centers = frame.class_weights[:, None] if frame.subcenters is None else frame.subcenters
    unit = rays_of(centers.reshape(-1, 2)).reshape(centers.shape[:2])
    return {
        "points": pack(np.round(points / beyond * FULL).astype(np.int16)),
        "rays": [[round(ray.real, 5), round(ray.imag, 5)] for ray in rays.tolist()],
        "centers": [[[round(w.real, 6), round(w.imag, 6)] for w in row] for row in unit.tolist()],
    }


def spread(lines: Sequence[T], limit: int = EPOCHS) -> list[T]:
    """At most so many epochs' lines, evenly, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(lines) - 1, min(limit, len(lines))).round().astype(int))
    return [lines[i] for i in chosen.tolist()]


def sample(count: int, limit: int) -> Int[np.ndarray, "M"]:
    """Numbers of points in shuffled order, so that where classes overlap none hides another."""
    return np.random.default_rng(0).permutation(count)[:limit]


def flat_line(line: Mapping[str, Any]) -> dict[str, Any]:
    names = ("epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy", "verdict")
    gaps = ("smallest_gap_degrees", "largest_gap_degrees")
    return {name: line[name] for name in names} | {name: line["separability"][name] for name in gaps}


def hexadecimal(colours: Float[np.ndarray, "C 3"]) -> list[str]:
    return ["#" + "".join(f"{round(255 * value):02x}" for value in colour) for colour in np.clip(colours, 0, 1)]
