"""What a trained network sees in one's own pictures.

python -m experiments.predict runs/arcloss/v1_2_3/seed0 digit.png
python -m experiments.predict resnet18.safetensors --model resnet18 faces/*.jpg
"""

import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table

from experiments.run.bar import ProgressBar
from experiments.run.options import OptionalStr
from experiments.run.terminal import UserError, main, parse
from experiments.trained import pictures

if TYPE_CHECKING:
    from jaxnets.export import Program

BATCH, PIXELS = 256, 2**22  # of a batch, at most: so many pictures, and so many numbers in all of them


@dataclasses.dataclass(frozen=True)
class Config:
    """Tell the class of pictures, and how near it is: cosine and angle to the nearest class and to the runner-up."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """a run's folder, or a .safetensors or .pth file"""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """pictures of any size and format; what is transparent in them is taken for white"""
    model: OptionalStr = None
    """the network that a file's weights are of; a run's folder says so itself"""
    top: int = 2
    """how many classes to name of each picture"""
    invert: bool = False
    """make dark light and light dark: MNIST's digits are white on black"""


class Prediction(NamedTuple):
    """Of one picture: the `top` classes, best first, and their scores; `inverted` if it looks dark on light."""

    classes: Int[np.ndarray, "K"]
    scores: Float[np.ndarray, "K"]
    probabilities: Float[np.ndarray, "K"]
    inverted: bool


def command(config: Config) -> None:
    if not config.images:
        raise UserError("name the pictures after the run or file; see python -m experiments.predict --help")
    if config.top < 1:
        raise UserError(f"--top must be 1 or more, not {config.top}")

    from experiments.run.session import prepare  # JAX is imported from here on, not for --help

    prepare()
    for path in config.images:
        pictures.check(path)
    from experiments.trained import network as trained

    network = trained.load(config.source, config.model)
    predictions = list(predict(network.program("scores"), config))
    has_angles = network.class_weights is not None
    _print(
        f"{network.name} from {network.origin}",
        ["image", "rank", "class", *(("cosine", "angle") if has_angles else ("score", "probability"))],
        [
            [_plain(path), str(rank), network.classes[c], *_numbers(score, None if has_angles else probability)]
            for path, prediction in zip(config.images, predictions, strict=True)
            for rank, (c, score, probability) in enumerate(zip(*prediction[:3], strict=True), 1)
        ],
    )
    inverted = [path for path, prediction in zip(config.images, predictions, strict=True) if prediction.inverted]
    if inverted and network.image_shape[2] == 1:
        them = _plain(inverted[0]) + (f" and {len(inverted) - 1} more look" if len(inverted) > 1 else " looks")
        print(
            f"note: {them} dark on light, the border brighter than the middle, where MNIST is light on dark: "
            f"try {'without' if config.invert else 'with'} --invert",
            file=sys.stderr,
        )


def predict(program: "Program", config: Config) -> Iterator[Prediction]:
    """One for each picture, in batches of one size, so that the program is compiled once."""
    import jax
    from scipy.special import softmax

    apply, shape = jax.jit(program.apply), program.image_shape
    size = max(1, min(BATCH, PIXELS // math.prod(shape), len(config.images)))
    with ProgressBar("predicting", len(config.images)) as bar:
        for start in range(0, len(config.images), size):
            paths = config.images[start : start + size]
            images = np.zeros((size, *shape), np.uint8)
            images[: len(paths)] = [pictures.read(path, shape) for path in paths]
            if config.invert:
                images = 255 - images
            scores = np.asarray(apply(program.weights, images))[: len(paths)]
            best = np.argsort(-scores, axis=1, kind="stable")[:, : config.top]
            chosen = (np.take_along_axis(of_all, best, axis=1) for of_all in (scores, softmax(scores, axis=1)))
            yield from map(Prediction, best, *chosen, pictures.look_inverted(images).tolist())
            bar.advance_to(start + len(paths))


def _numbers(score: float, probability: float | None) -> list[str]:
    if probability is not None:
        return [f"{score:.3f}", f"{probability:.4f}"]
    return [f"{score:.4f}", f"{math.degrees(math.acos(min(max(score, -1.0), 1.0))):.1f}"]


def _print(title: str, names: list[str], rows: list[list[str]]) -> None:
    """A table for a person; for a pipe, lines of fields with a tab between, the first with their names."""
    console = Console()
    if not console.is_terminal:
        print(*("\t".join(row) for row in [names, *rows]), sep="\n")
        return
    table = Table(box=None)
    for name in names:
        table.add_column(name, justify="left" if name in ("image", "class") else "right", overflow="fold")
    for path, rank, *rest in rows:
        degrees = f"{rest[-1]}°" if names[-1] == "angle" else rest[-1]
        is_first = rank == "1"
        table.add_row(path if is_first else "", rank, *rest[:-1], degrees, style=None if is_first else "dim")
    console.print(title, table, sep="\n", markup=False, highlight=False, soft_wrap=False)


def _plain(path: Path) -> str:
    """A file's name as text of one line, whatever bytes it is made of."""
    return str(path).encode(errors="replace").decode().replace("\t", r"\t").replace("\n", r"\n")


if __name__ == "__main__":
    main(lambda: command(parse(Config, "python -m experiments.predict")))
