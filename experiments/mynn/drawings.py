"""The gender study's figures and table, made of a run's lines and kept arrays alone."""

import dataclasses
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.special import softmax

from experiments import page
from experiments.run.folder import Arrays, Folder, Line
from experiments.run.progress import variables_of
from experiments.run.records import write_json
from experiments.run.terminal import as_user_error, counted
from jaxnets import checkpoint, figures, torch_weights
from jaxnets.data import Split
from jaxnets.epochs import Evaluation
from jaxnets.files import write_atomically
from jaxnets.train import TrainState

WEIGHTS = "weights.safetensors"  # of the best epoch, under PyTorch's names


def measure(state: TrainState, evaluation: Evaluation) -> tuple[Line, Arrays]:
    """An epoch keeps the scores [N, K] of every test picture."""
    return {}, {"scores": evaluation.embeddings}


def draw_run(
    name: str, test: Split, classes: tuple[str, ...], data: str, steps_per_epoch: int
) -> Callable[[Folder, list[Line]], None]:
    """The study's three figures, the confusion and the most confident mistakes; and the best epoch's weights."""
    labels = np.asarray(test.labels)
    shown = title_of(data)

    def of_run(folder: Folder, lines: list[Line]) -> None:
        probabilities = softmax(folder.arrays(lines[-1]["epoch"])["scores"], axis=1)
        losses = np.concatenate([folder.arrays(line["epoch"])["step_losses"] for line in lines])
        title = f"{name} · epoch {lines[-1]['epoch']}"
        subtitle = f"{shown} · test accuracy {lines[-1]['test_accuracy']:.2%}"
        shared = {"title": title, "subtitle": subtitle}
        pictures = {
            "curves.png": figures.curves(lines, **shared),
            "steps.png": figures.step_losses(losses, steps_per_epoch=steps_per_epoch, **shared),
            "confusion.png": figures.confusion(labels, probabilities.argmax(axis=1), classes=classes, **shared),
            "mistakes.png": figures.mistakes(test.images, labels, probabilities, classes=classes, **shared),
        }
        for file, figure in pictures.items():
            write_atomically(folder.path / file, figures.to_png(figure))
        kept, begun = page.spread(lines), folder.begun()
        content = page.classifier_page(
            kept,
            [softmax(folder.arrays(line["epoch"])["scores"].astype(np.float32), axis=1) for line in kept],
            labels,
            test.images,
            classes=classes,
            title=f"{name} · {shown} · seed {begun['config']['seed']}",
            command=begun["command"],
            config=begun["config"],
        )
        write_atomically(folder.path / "index.html", content)
        with as_user_error(checkpoint.CheckpointError):
            found = checkpoint.restore(folder.path / "checkpoints" / "best")
        if found is not None:
            _, tree = found
            torch_weights.save(folder.path / WEIGHTS, name, variables_of(tree))

    return of_run


def compare(stem: Path, folders: Mapping[str, Path], data: str) -> tuple[str, Path]:
    """The table of the networks that came to an end, as text, and its page beside a picture of it and `stem`.json."""
    contenders = [contender(name, Folder(path)) for name, path in folders.items() if Folder(path).summary().get("last")]
    contenders.sort(key=lambda each: each.parameters)
    write_json(stem.with_suffix(".json"), {"data": data, "networks": [*map(dataclasses.asdict, contenders)]})
    picture = stem.with_suffix(".png")
    figure = figures.comparison(contenders, title="cost and accuracy of each network", subtitle=title_of(data))
    write_atomically(picture, figures.to_png(figure))
    networks = [
        page.Network(
            **dataclasses.asdict(each),
            curve=tuple(line["test_accuracy"] for line in Folder(folders[each.name]).lines()),
            href=os.path.relpath(folders[each.name] / "index.html", stem.parent),
        )
        for each in contenders
    ]
    content = page.networks_page(networks, title="the networks of the gender study", note=f"on {title_of(data)}")
    write_atomically(stem.with_suffix(".html"), content)
    rows = [("network", "parameters", "MiB", "last", "best", "s/epoch", "images/s")]
    for each in contenders:
        accuracies = f"{each.last_accuracy:.2%}", f"{each.best_accuracy:.2%}"
        speed = f"{each.seconds_per_epoch:.1f}", f"{each.images_per_second:.1f}"
        rows.append((each.name, f"{each.parameters:,}", f"{each.megabytes:.2f}", *accuracies, *speed))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join((f"on {title_of(data)}:", *lines)), stem.with_suffix(".html")


def contender(name: str, folder: Folder) -> figures.ComparedNetwork:
    """The figures of one network, from its finished run."""
    weights, lines = folder.path / WEIGHTS, folder.lines()
    timed = lines[1:] or lines  # the first epoch compiles
    arrays = torch_weights.read(weights)
    counted = (array.size for key, array in arrays.items() if "running_" not in key and "num_batches" not in key)
    return figures.ComparedNetwork(
        name=name,
        parameters=sum(counted),
        megabytes=weights.stat().st_size / 2**20,
        last_accuracy=lines[-1]["test_accuracy"],
        best_accuracy=max(line["test_accuracy"] for line in lines),
        seconds_per_epoch=statistics.median(line["seconds"] for line in timed),
        images_per_second=statistics.median(line["images_per_second"] for line in timed),
    )


def title_of(data: str) -> str:
    """The data's name for people: drawn faces are called drawings everywhere, a folder has its own name."""
    scheme, _, rest = data.partition(":")
    if scheme == "folder":
        return Path(rest).resolve().name
    return "drawn faces, not photographs" if data == "faces" else data


def closing_words(data: str, directory: Path, summary: Line) -> str:
    return (
        f"{directory.parent.name} on {title_of(data)}: "
        f"test accuracy {summary['last']['test_accuracy']:.4f} after {counted(summary['epochs'], 'epoch')} "
        f"(best {summary['best']['test_accuracy']:.4f} after {summary['best']['epoch']})\n"
        f"look into it: {directory / 'index.html'}\n"
        f"see {directory / 'curves.png'}, {directory / 'mistakes.png'} and beside them"
    )
