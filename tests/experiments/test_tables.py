"""The README's figures are those of the committed results, and results are made as the tables expect."""

import json
import re

import pytest

from experiments import tables
from experiments.run.terminal import UserError


def test_the_readme_shows_what_was_measured():
    readme = tables.README.read_text()
    assert tables.with_tables(readme) == readme
    for name in tables.TABLES:
        found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", readme, re.DOTALL)
        assert found and found[1].strip() and (tables.RESULTS / f"{name}.json").exists(), name


def test_each_result_says_how_it_was_made():
    for file in tables.RESULTS.glob("*.json"):
        record = json.loads(file.read_text())
        assert record["command"] and record["environment"]["jax"] and record["environment"]["cpu"], file.name


def finished_run(folder, seed, **changes):
    folder.mkdir()
    config = {"seed": seed, "margin": {"name": "arcface"}} | changes
    environment = {"cpu": "a CPU", "cpu_cores": 2, "python": "3.11", "jax": "0.10.2"}
    record = {"config": config, "environment": environment, "command": "python -m experiments.arcloss"}
    (folder / "config.json").write_text(json.dumps(record))
    lines = [
        {
            "epoch": epoch,
            "test_accuracy": accuracy,
            "train_accuracy": 0.9,
            "verdict": "separated",
            "seconds": 40.0,
            "separability": {"smallest_gap_degrees": 30.4, "largest_gap_degrees": 40.0},
        }
        for epoch, accuracy in ((1, 0.9), (2, 0.96 + seed / 100))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_are_collected_into_a_table(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed) for seed in (0, 1)]
    text = tables.default_run_table(tables.collect(runs))
    assert "| 0 | 90.00 | 96.00 | 30°–40° | separated |" in text
    assert "n = 2; the last 96.50 ± 0.71 %" in text and "a CPU, 2 cores, Python 3.11, JAX 0.10.2" in text
    with pytest.raises(UserError, match="differ in more than their seed"):
        tables.collect([*runs, finished_run(tmp_path / "other", 2, margin={"name": "cosface"})])


def test_accuracies_of_several_seeds_are_averaged_for_each_epoch():
    environment = {"cpu": "a CPU", "cpu_cores": 2, "python": "3.11", "jax": "0.10.2", "torch": "2.13"}
    rows = [
        {"seed": seed, "epoch": epoch}
        | {name: {"test_accuracy": accuracy + seed / 100, "train_loss": 1 / epoch} for name in ("jaxnets", "torch")}
        for seed in (0, 1)
        for epoch, accuracy in ((1, 0.9), (2, 0.96))
    ]
    result = {"command": "python -m experiments.bench accuracy", "environment": environment, "rows": rows}
    assert "| 2 | 96.50 ± 0.71 | 96.50 ± 0.71 | 0.5000 | 0.5000 |" in tables.accuracy_table(result)
    one = tables.accuracy_table(result | {"rows": rows[:2]})
    assert "| 1 | 90.00 | 90.00 | 1.0000 | 1.0000 |" in one and "seeds" not in one
