"""A trained network's classes for the user's pictures, as a table."""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from scipy.special import softmax

from experiments.run.bar import ProgressBar
from experiments.run.terminal import enough_memory
from experiments.trained import network, pictures
from jaxnets.export import Program
from jaxnets.naming import quoted

BATCH, PIXELS = 256, 2**22  # at most in a batch: pictures, and numbers in all of them
UNCERTAIN_DEGREES, UNCERTAIN_PROBABILITY = 5.0, 0.6  # a smaller lead, or a smaller probability, is uncertain


class Prediction(NamedTuple):
    """For one picture, the `top` classes, best first, with their scores, and reasons to doubt them.

    `inverted`: it looks dark on light. `pale`: it uses less than half of the range from black to white.
    `uncertain`: the best class has a small lead.
    """

    classes: Int[np.ndarray, "K"]
    scores: Float[np.ndarray, "K"]
    probabilities: Float[np.ndarray, "K"]
    inverted: bool
    pale: bool
    uncertain: bool


def predict(
    program: Program, paths: Sequence[Path], *, top: int, has_angles: bool, invert: bool = False, stretch: bool = False
) -> Iterator[Prediction]:
    """A prediction for each picture, in batches of one size, so that the program is compiled once."""
    apply, shape = jax.jit(program.apply), program.image_shape
    size = min(batch_size(shape), len(paths))
    with ProgressBar("predicting", len(paths)) as bar, enough_memory("use a larger machine"):
        for start in range(0, len(paths), size):
            chosen = paths[start : start + size]
            images = np.zeros((size, *shape), np.uint8)
            images[: len(chosen)] = [pictures.read(path, shape) for path in chosen]
            pale = pictures.look_pale(images)
            if stretch:
                images = pictures.stretched(images)
            if invert:
                images = 255 - images
            scores = np.asarray(apply(program.weights, images))[: len(chosen)]
            probabilities = softmax(scores, axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")
            scores, probabilities = (np.take_along_axis(of_all, best, axis=1) for of_all in (scores, probabilities))
            told = (each[:, :top] for each in (best, scores, probabilities))
            doubts = pictures.look_inverted(images), pale, _uncertain(scores, probabilities, has_angles)
            yield from map(Prediction, *told, *(each.tolist() for each in doubts))
            bar.advance_to(start + len(chosen))


def batch_size(image_shape: tuple[int, int, int]) -> int:
    """How many pictures are decoded and computed at once."""
    return max(1, min(BATCH, PIXELS // math.prod(image_shape)))


def show(trained: network.Trained, paths: Sequence[Path], predictions: Sequence[Prediction]) -> None:
    """A table on the terminal, or lines for a pipe."""
    has_angles = trained.class_weights is not None
    print_table(
        f"{trained.name} from {trained.origin}",
        ["image", "rank", "class", *(("cosine", "angle") if has_angles else ("score", "probability"))],
        [
            [
                quoted(path),
                str(rank),
                quoted(trained.classes[c]),
                *_numbers(float(score), None if has_angles else float(probability)),
            ]
            for path, prediction in zip(paths, predictions, strict=True)
            for rank, (c, score, probability) in enumerate(zip(*prediction[:3], strict=True), 1)
        ],
    )


def notes(
    trained: network.Trained, paths: Sequence[Path], predictions: Sequence[Prediction], *, invert: bool, stretch: bool
) -> None:
    """Prints the reasons to doubt predictions on stderr."""

    def pointed_out(kind: str, one: str, several: str) -> str | None:
        found = [path for path, each in zip(paths, predictions, strict=True) if getattr(each, kind)]
        if not found:
            return None
        return quoted(found[0]) + (f" and {len(found) - 1} more {several}" if len(found) > 1 else f" {one}")

    if trained.image_shape[2] == 1 and (them := pointed_out("inverted", "looks", "look")):
        print(
            f"note: {them} dark on light, the border brighter than the middle, where MNIST is light on dark: "
            f"try {'without' if invert else 'with'} --invert",
            file=sys.stderr,
        )
    if not stretch and (them := pointed_out("pale", "uses", "use")):
        print(f"note: {them} less than half of the range from black to white: try with --stretch", file=sys.stderr)
    if them := pointed_out("uncertain", "is", "are"):
        why = (
            f"the two nearest classes are within {UNCERTAIN_DEGREES:.0f}° of each other's angle"
            if trained.class_weights is not None
            else f"no class has a probability of {UNCERTAIN_PROBABILITY:.0%}"
        )
        print(f"note: {them} uncertain: {why}", file=sys.stderr)


def _uncertain(
    scores: Float[np.ndarray, "N K"], probabilities: Float[np.ndarray, "N K"], has_angles: bool
) -> Bool[np.ndarray, "N"]:
    """Whether the best class, the first in descending order, has too small a lead."""
    if scores.shape[1] == 1:
        return np.zeros(len(scores), bool)
    if not has_angles:
        return probabilities[:, 0] < UNCERTAIN_PROBABILITY
    angles = np.degrees(np.arccos(np.clip(scores[:, :2], -1, 1)))
    return angles[:, 1] - angles[:, 0] < UNCERTAIN_DEGREES


def _numbers(score: float, probability: float | None) -> list[str]:
    if probability is not None:
        return [f"{score:.3f}", f"{probability:.4f}"]
    return [f"{score:.4f}", f"{math.degrees(math.acos(min(max(score, -1.0), 1.0))):.1f}"]


def print_table(title: str, names: list[str], rows: list[list[str]]) -> None:
    """A table for a person; for a pipe, lines of fields with a tab between, the first with their names."""
    console = Console()
    if not console.is_terminal:
        print(*("\t".join(row) for row in [names, *rows]), sep="\n")
        return
    table = Table(box=None)
    for name in names:
        table.add_column(name, justify="left" if name in ("image", "class", "nearest") else "right", overflow="fold")
    for path, rank, *rest in rows:
        degrees = f"{rest[-1]}°" if names[-1] == "angle" else rest[-1]
        is_first = rank == "1"
        table.add_row(path if is_first else "", rank, *rest[:-1], degrees, style=None if is_first else "dim")
    console.print(title, table, sep="\n", markup=False, highlight=False, soft_wrap=False)
