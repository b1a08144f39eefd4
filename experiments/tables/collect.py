"""Finished runs made into results."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.run.records import read_json, read_lines
from experiments.run.terminal import UserError


def collect(runs: list[Path]) -> dict[str, Any]:
    """Finished runs that differ in their seed alone, with how they were made."""
    records = [read_json(run / "config.json") for run in runs]
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
        for record, lines in (
            (record, read_lines(run / "metrics.jsonl")) for record, run in zip(records, runs, strict=True)
        )
    ]
    return {
        "command": [record["command"] for record in records],
        "environment": records[0]["environment"],
        "config": configs[0],
        "seeds": seeds,
    }


def compare(runs: list[Path]) -> dict[str, Any]:
    """Finished runs of classifiers, each of a configuration of its own, on the same pictures."""
    from experiments.mynn.drawings import contender
    from experiments.run.folder import Folder

    rows = []
    for run in runs:
        record, lines = read_json(run / "config.json"), read_lines(run / "metrics.jsonl")
        found = dataclasses.asdict(contender(record["config"]["variant"], Folder(run)))
        rows.append({**record, **found, "test_accuracy": [line["test_accuracy"] for line in lines]})
    if len({row["config"]["data_fingerprint"] for row in rows}) > 1:
        raise UserError("these runs are of different pictures, or of pictures of different sizes")
    return {"command": [row["command"] for row in rows], "environment": rows[0]["environment"], "rows": rows}
