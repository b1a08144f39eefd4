"""Finished runs of the ArcLoss study gathered into one result, to which later ones are added, and their sheet."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.arcloss.variants import VARIANTS
from experiments.run.folder import Folder
from experiments.run.records import read_json, write_json
from experiments.run.terminal import UserError, counted
from experiments.tables.study import PUBLISHED, belongs
from jaxnets import figures
from jaxnets.files import write_atomically

SHEET_POINTS = 3000  # kept of a run


def add_to_study(results: Path, outs: list[Path]) -> str:
    """Adds the finished runs below OUT/arcloss to study.json, in place of older ones of the same recipe and seed.

    Runs of more epochs than the tables' are kept beside them.

    The sheet study.png is drawn again, from study.npz, which keeps the points of each variant.

    Raises:
      UserError: there are no runs below a folder, or no finished ones.
    """
    file = results / "study.json"
    before = read_json(file) if file.exists() else {"command": [], "runs": []}
    runs = {_identity(run): run for run in before["runs"]}
    added = unfinished = 0
    shown = _kept(results / "study.npz")
    for out in outs:
        places = sorted(path.parent for path in out.glob("arcloss/*/seed*/config.json"))
        if not places:
            raise UserError(f"there are no runs in {out / 'arcloss'}: name the folder that --out named")
        for place in places:
            if not Folder(place).summary():
                unfinished += 1
                continue
            run = _record(place)
            runs[_identity(run)] = run
            added += 1
            if belongs(run, PUBLISHED) and run["test_accuracy"]:
                _keep(shown, place, run)
    if not added:
        raise UserError(f"none of {counted(unfinished, 'run')} is finished yet")
    ordered = sorted(runs.values(), key=lambda run: (run["config"]["data"], *map(str, _identity(run))))
    command = f"python -m experiments.tables {' '.join(sys.argv[1:])}"
    commands = list(dict.fromkeys([*before["command"], command]))
    write_json(file, {"command": commands, "environment": ordered[0]["environment"], "runs": ordered})
    if shown:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **shown)  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
        write_atomically(results / "study.npz", buffer.getvalue())
        write_atomically(results / "study.png", _sheet(shown, ordered))
    return f"{counted(added, 'finished run')} taken into {file}, {unfinished} left out that still train"


def _record(place: Path) -> dict[str, Any]:
    """All that the tables need of a finished run."""
    folder = Folder(place)
    begun, summary = folder.begun(), folder.summary()
    lines = folder.lines()[: summary.get("epochs", summary.get("epoch", 1) - 1)]
    last = lines[-1]["separability"] if lines else {}
    return {
        "variant": begun["config"]["variant"],
        "seed": begun["config"]["seed"],
        "verdict": summary["verdict"],
        "epochs": len(lines),
        "test_accuracy": [line["test_accuracy"] for line in lines],
        "train_loss": [line["train_loss"] for line in lines],
        "train_accuracy": [line["train_accuracy"] for line in lines],
        "smallest_gap_degrees": last.get("smallest_gap_degrees"),
        "largest_gap_degrees": last.get("largest_gap_degrees"),
        "overlap": last.get("overlap"),
        "command": begun["command"],
        "commit": begun["environment"].get("commit"),
        "environment": begun["environment"],
        "config": begun["config"],
    }


def _identity(run: dict[str, Any]) -> tuple[Any, ...]:
    config = run["config"]
    loss = config["margin"]["name"], config["margin"]["m"], config["scale"]
    return run["variant"], run["seed"], config["data"], *loss, max(run["epochs"], PUBLISHED.epochs)


def _kept(file: Path) -> dict[str, np.ndarray]:
    if not file.exists():
        return {}
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _keep(shown: dict[str, np.ndarray], place: Path, run: dict[str, Any]) -> None:
    """A variant's picture is of its first seed."""
    from jaxnets.data import load

    name = run["variant"]
    if run["seed"] > int(shown.get(f"{name}.seed", run["seed"])):
        return
    arrays = Folder(place).arrays(run["epochs"])
    labels = np.asarray(load(run["config"]["data"]).test.labels)
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:SHEET_POINTS])
    shown |= {
        f"{name}.seed": np.array(run["seed"]),
        f"{name}.embeddings": arrays["embeddings"][chosen].astype(np.float16),
        f"{name}.labels": labels[chosen].astype(np.uint8),
        f"{name}.class_weights": arrays["class_weights"].astype(np.float32),
    }


def _sheet(shown: dict[str, np.ndarray], runs: list[dict[str, Any]]) -> bytes:
    panels = []
    for name, variant in VARIANTS.items():
        seed = shown.get(f"{name}.seed")
        found = [run for run in runs if run["variant"] == name and run["seed"] == seed and belongs(run, PUBLISHED)]
        if found:
            embeddings, labels, weights = (
                shown[f"{name}.{part}"] for part in ("embeddings", "labels", "class_weights")
            )
            accuracy, verdict = found[0]["test_accuracy"][-1], found[0]["verdict"]
            panels.append(
                figures.Panel(name, embeddings.astype(np.float32), labels, weights, accuracy, verdict, variant.verdict)
            )
    classes = runs[0]["config"]["classes"]
    title = f"the ArcLoss study's variants after {PUBLISHED.epochs} epochs"
    return figures.to_png(figures.sheet(panels, classes=classes, title=title, subtitle=PUBLISHED.name))
