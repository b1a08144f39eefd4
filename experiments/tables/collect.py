"""Finished runs made into results."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.run.folder import Folder, Line
from experiments.run.terminal import UserError


def collect(runs: list[Path]) -> dict[str, Any]:
    """Finished runs of the ArcLoss study that differ in their seed alone, with how they were made.

    Raises:
      UserError: a run is not finished, is another command's, or differs in more than its seed.
    """
    records, ended = zip(*(_finished(run, "arcloss") for run in runs), strict=True)
    configs = [{name: value for name, value in record["config"].items() if name != "seed"} for record in records]
    if any(config != configs[0] for config in configs):
        raise UserError("these runs differ in more than their seed")
    seeds = [
        {
            "seed": record["config"]["seed"],
            "test_accuracy": [line["test_accuracy"] for line in lines],
            "train_accuracy": [line["train_accuracy"] for line in lines],
            "smallest_gap_degrees": lines[-1]["separability"]["smallest_gap_degrees"],
            "largest_gap_degrees": lines[-1]["separability"]["largest_gap_degrees"],
            "verdict": lines[-1]["verdict"],
        }
        for record, lines in zip(records, ended, strict=True)
    ]
    return {
        "command": [record["command"] for record in records],
        "environment": records[0]["environment"],
        "config": configs[0],
        "seeds": seeds,
    }


def compare(runs: list[Path]) -> dict[str, Any]:
    """Finished runs of classifiers, of any configurations and seeds, on the same pictures.

    Raises:
      UserError: a run is not finished, is another command's, or has other pictures.
    """
    from experiments.mynn.drawings import contender

    rows = []
    for run in runs:
        record, lines = _finished(run, "mynn")
        found = dataclasses.asdict(contender(record["config"]["variant"], Folder(run)))
        accuracies = [line["test_accuracy"] for line in lines]
        tested = len(Folder(run).arrays(len(lines))["scores"])
        rows.append({**record, **found, "test_accuracy": accuracies, "test_images": tested})
    if len({row["config"]["data_fingerprint"] for row in rows}) > 1:
        raise UserError("these runs are of different pictures, or of pictures of different sizes")
    return {"command": [row["command"] for row in rows], "environment": rows[0]["environment"], "rows": rows}


def recognised(runs: list[Path]) -> dict[str, Any]:
    """Finished runs of recognition, of any configurations and seeds, judged on the same pictures.

    Raises:
      UserError: a run is not finished, is another command's, or has other pictures.
    """
    rows = []
    for run in runs:
        record, lines = _finished(run, "recognition")
        config = {name: value for name, value in record["config"].items() if name not in ("classes", "data_notes")}
        seconds = round(sum(line["seconds"] for line in lines), 1)
        last = lines[-1]["recognition"]
        rows.append({**record, "config": config, "epochs": len(lines), "seconds": seconds, "recognition": last})
    if len({row["config"]["data_fingerprint"] for row in rows}) > 1:
        raise UserError("these runs are of different pictures, or of pictures of different sizes")
    return {"command": [row["command"] for row in rows], "environment": rows[0]["environment"], "rows": rows}


def _finished(run: Path, study: str) -> tuple[dict[str, Any], list[Line]]:
    """How a run of `python -m experiments.STUDY` was begun, and its epochs."""
    folder = Folder(run)
    begun, summary = folder.begun(), folder.summary()
    found = "recognition" if "enrolled" in begun["config"] else "arcloss" if "margin" in begun["config"] else "mynn"
    if found != study:
        raise UserError(f"{run} is no run of python -m experiments.{study}")
    if not summary.get("epochs"):
        raise UserError(f"{run} has not ended" if not summary else f"{run} has diverged")
    return begun, folder.lines()[: summary["epochs"]]
