"""The ArcLoss study's figures, made from a run's lines and kept arrays alone: each can be drawn again."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments import page
from experiments.arcloss.variants import Variant
from experiments.run.folder import Arrays, Folder, Line
from experiments.run.terminal import counted
from jaxnets import figures
from jaxnets.data import Dataset
from jaxnets.epochs import Evaluation
from jaxnets.files import write_atomically
from jaxnets.losses import cosines
from jaxnets.separability import separability
from jaxnets.subcenters import dominant_centers
from jaxnets.train import TrainState

FRAMES = 40  # of the animation, however many epochs there are: twenty seconds
VARIANT_EPOCHS = 25  # of each variant on their common page


def measure(dataset: Dataset) -> Callable[[TrainState, Evaluation], tuple[Line, Arrays]]:
    """The separability of an epoch in numbers, and the arrays from which its picture is drawn.

    For classes with sub-centres, both are about the dominant one.
    """
    labels = np.asarray(dataset.test.labels)

    def of_epoch(state: TrainState, evaluation: Evaluation) -> tuple[Line, Arrays]:
        all_weights = class_weights = np.asarray(state.params["head"]["class_weights"])
        arrays = {"embeddings": evaluation.embeddings}
        if all_weights.ndim == 3:
            on_device = (jnp.asarray(array) for array in (evaluation.embeddings, all_weights, labels))
            class_weights, arrays["subcenters"] = np.asarray(dominant_centers(*on_device)), all_weights
        numbers = separability(evaluation.embeddings, class_weights, labels).as_dict()
        line = {"verdict": numbers.pop("verdict"), "separability": numbers}
        return line, {**arrays, "class_weights": class_weights}

    return of_epoch


def draw_epoch(variant: Variant, dataset: Dataset) -> Callable[[Folder, Line], None]:
    """An epoch's scatter and its unit circle, unless they are there already."""
    labels = np.asarray(dataset.test.labels)

    def of_epoch(folder: Folder, line: Line) -> None:
        for kind, draw in (("scatter", figures.scatter), ("circle", figures.circle)):
            path = folder.path / kind / f"epoch_{line['epoch']:04d}.png"
            if not path.exists():
                arrays = folder.arrays(line["epoch"])
                title, subtitle = _titles(variant, line)
                figure = draw(
                    arrays["embeddings"],
                    labels,
                    arrays["class_weights"],
                    classes=dataset.classes,
                    title=title,
                    subtitle=subtitle,
                )
                write_atomically(path, figures.to_png(figure))

    return of_epoch


def draw_run(variant: Variant, dataset: Dataset, angle: float | None) -> Callable[[Folder, list[Line]], None]:
    """The figures of a whole run: curves, angles (with an angular margin), confusion, the animated scatter."""
    labels = np.asarray(dataset.test.labels)

    def of_run(folder: Folder, lines: list[Line]) -> None:
        last = folder.arrays(lines[-1]["epoch"])
        embeddings, class_weights = last["embeddings"], last["class_weights"]
        all_weights = last.get("subcenters", class_weights)
        predictions = np.asarray(jax.jit(cosines)(embeddings, all_weights).argmax(axis=1))
        title, subtitle = _titles(variant, lines[-1])
        shared = {"title": title, "subtitle": subtitle}
        pictures = {
            "curves.png": figures.curves([_flat(line) for line in lines], title=variant.name),
            "angles.png": figures.angle_histograms(embeddings, class_weights, labels, margin=angle, **shared),
            "confusion.png": figures.confusion(labels, predictions, classes=dataset.classes, **shared),
        }
        for name, figure in pictures.items():
            write_atomically(folder.path / name, figures.to_png(figure))
        filmed = page.spread(lines, FRAMES)
        radius = max(figures.scatter_radius(folder.arrays(line["epoch"])["embeddings"]) for line in filmed)

        def frame(line: Line) -> UInt8[np.ndarray, "H W 3"]:
            arrays = folder.arrays(line["epoch"])
            title, subtitle = _titles(variant, line)
            embeddings, weights = arrays["embeddings"], arrays["class_weights"]
            shared = {"title": title, "subtitle": subtitle}
            return figures.to_pixels(
                figures.scatter(embeddings, labels, weights, classes=dataset.classes, radius=radius, **shared)
            )

        write_atomically(folder.path / "scatter.gif", figures.animate(map(frame, filmed)))
        begun = folder.begun()
        shown = run_of(variant.name, folder, page.spread(lines), dataset)
        described = {
            "title": f"{variant.name} · {data_title(dataset)} · seed {begun['config']['seed']}",
            "command": begun["command"],
            "config": begun["config"],
        }
        write_atomically(folder.path / "index.html", page.run_page(shown, dataset.test.images, **described))

    return of_run


def draw_sheet(path: Path, folders: Mapping[Variant, Path], dataset: Dataset) -> Path:
    """The last recorded epoch of each variant, side by side, with our verdict and the study's.

    A variant that diverged says so; one that diverged in its first epoch has no picture and is left out.
    """
    panels = []
    for variant, place in folders.items():
        folder = Folder(place)
        lines = folder.lines()
        if lines:
            arrays = folder.arrays(lines[-1]["epoch"])
            panels.append(
                figures.Panel(
                    name=variant.name,
                    accuracy=lines[-1]["test_accuracy"],
                    verdict=folder.summary().get("verdict") or lines[-1]["verdict"],
                    author_verdict=variant.verdict,
                    embeddings=arrays["embeddings"],
                    labels=np.asarray(dataset.test.labels),
                    class_weights=arrays["class_weights"],
                )
            )
    write_atomically(path, figures.to_png(figures.sheet(panels, classes=dataset.classes)))
    return path


def run_of(name: str, folder: Folder, lines: list[Line], dataset: Dataset, said: str = "", href: str = "") -> page.Run:
    """A run's epochs as a page takes them."""
    frames = []
    for line in lines:
        arrays = folder.arrays(line["epoch"])
        frames.append(page.Frame(line, arrays["embeddings"], arrays["class_weights"], arrays.get("subcenters")))
    return page.Run(name, frames, np.asarray(dataset.test.labels), dataset.classes, said, href)


def data_title(dataset: Dataset) -> str:
    return "MNIST" if dataset.name == "mnist" else dataset.name


def draw_variants(path: Path, folders: Mapping[Variant, Path], dataset: Dataset) -> Path:
    """The variants side by side as one plays them, each with a link to its own page."""
    runs = [
        run_of(
            variant.name,
            Folder(place),
            page.spread(lines, VARIANT_EPOCHS),
            dataset,
            variant.verdict,
            os.path.relpath(place / "index.html", path.parent),
        )
        for variant, place in folders.items()
        if (lines := Folder(place).lines())
    ]
    write_atomically(
        path, page.variants_page(runs, title=f"the variants of the ArcLoss study on {data_title(dataset)}")
    )
    return path


def closing_words(directory: Path, summary: Line) -> str:
    """How the run ended, with advice where its directions have collapsed, and where to look."""
    last, last_picture = summary["last"], f"epoch_{summary['epochs']:04d}.png"
    numbers = last["separability"]
    advice = (
        f"only {numbers['directions_in_use']} of {counted(numbers['num_classes'], 'direction')} are in use: "
        "try a smaller --s or --m\n"
        if summary["verdict"] == "collapsed"
        else ""
    )
    return (
        f"{summary['verdict']}: test accuracy {last['test_accuracy']:.4f} after {counted(summary['epochs'], 'epoch')} "
        f"(best {summary['best']['test_accuracy']:.4f} after {summary['best']['epoch']}), "
        f"gaps between classes {_gaps(last, 1)}\n"
        f"{advice}"
        f"look into it: {directory / 'index.html'}\n"
        f"see {directory / 'scatter.gif'}, {directory / 'scatter' / last_picture} and beside them"
    )


def _titles(variant: Variant, line: Line) -> tuple[str, str]:
    return (
        f"{variant.name} · epoch {line['epoch']}",
        f"test accuracy {line['test_accuracy']:.2%} · gaps {_gaps(line, 0)} · {line['verdict']}",
    )


def _gaps(line: Line, digits: int) -> str:
    """The smallest and the largest angle between neighbouring classes; a diverged run has none."""
    gaps = [line["separability"][f"{which}_gap_degrees"] for which in ("smallest", "largest")]
    return "–".join("?" if gap is None else f"{gap:.{digits}f}°" for gap in gaps)


def _flat(line: Line) -> Line:
    return {**line, **{name: line["separability"][name] for name in ("smallest_gap_degrees", "largest_gap_degrees")}}
