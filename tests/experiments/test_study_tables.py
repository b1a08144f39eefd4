"""The ArcLoss study's statements are answered by rules, from runs that are gathered as they end."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.arcloss.variants import VARIANTS
from experiments.run.terminal import UserError
from experiments.tables import study, study_runs
from experiments.tables.claims import (
    CHANGES,
    ENDINGS,
    Change,
    Ending,
    Plateau,
    answer_change,
    answer_ending,
    answer_plateau,
    permutation_p,
    smallest_p,
)
from tests.experiments.test_tables import finished_run


def test_every_variant_has_a_rule_and_every_change_is_between_variants():
    assert set(ENDINGS) == set(VARIANTS)
    assert {name for change in CHANGES for name in (change.before, change.after)} <= set(VARIANTS)
    # The rule is that of the study's words.
    assert {name for name, ending in ENDINGS.items() if isinstance(ending, Ending) and ending.separated} == {
        name for name, variant in VARIANTS.items() if "clearly separated" in variant.verdict
    }


@pytest.mark.parametrize(
    ("separated", "verdicts", "answer", "reason"),
    [
        (True, [], "open", "0 runs of 3"),
        (True, ["separated"] * 2, "open", "2 runs of 3"),
        (True, ["separated"] * 3, "confirmed", "all 3 runs end separated"),
        (True, ["overlapping"] * 3, "refuted", "all 3 runs end overlapping"),
        (False, ["overlapping", "collapsed", "overlapping"], "confirmed", "all 3 runs end collapsed or overlapping"),
        (False, ["separated"] * 4, "refuted", "all 4 runs end separated"),
        (False, ["separated", "overlapping", "overlapping"], "open", "1 of 3 runs end separated"),
    ],
)
def test_runs_that_agree_answer(separated, verdicts, answer, reason):
    assert answer_ending(Ending(separated=separated), verdicts) == (answer, reason)


@pytest.mark.parametrize(
    ("last", "answer"),
    [
        ([5.0, 5.0, 4.91, 4.91], ("confirmed", "the loss falls by 1.8 % from epochs 5–6 to epochs 7–8")),
        ([5.0, 5.0, 4.5, 5.31], ("confirmed", "the loss falls by 1.9 % from epochs 5–6 to epochs 7–8")),
        ([5.0, 5.0, 4.9, 4.8], ("refuted", "the loss falls by 3.0 % from epochs 5–6 to epochs 7–8")),
        ([5.0, 5.0, 5.5, 5.5], ("confirmed", "the loss rises by 10.0 % from epochs 5–6 to epochs 7–8")),
        ([5.0, 5.0], ("open", "takes a run of 8 epochs")),
    ],
)
def test_a_loss_that_stops_falling(last, answer):
    assert answer_plateau(Plateau(epochs=8), [9.0, 8.0, 7.0, 6.0, *last]) == answer


def test_p_counts_the_divisions_that_are_as_extreme():
    # Of 5 + 5 numbers in two heaps 1 of 252 divisions has this difference, and its mirror image.
    assert permutation_p([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert smallest_p(5, 5) == pytest.approx(2 / 252) and smallest_p(3, 3) == pytest.approx(0.1)
    # {1, 3} against {2, 4}: of the six sums 3, 4, 5, 5, 6, 7 of two, 3 and 4 are as small.
    assert permutation_p([1, 3], [2, 4]) == pytest.approx(2 * 2 / 6)
    assert permutation_p([1, 1, 1], [1, 1, 1]) == 1


def test_a_change_is_answered_by_a_test_that_can_answer():
    better = Change("a number", "before", "after", better=True, seeds=(5, 5))
    low, high = [0.01, 0.02, 0.03, 0.04, 0.05], [0.2, 0.3, 0.4, 0.5, 0.6]
    assert answer_change(better, high, low) == ("confirmed", "less overlap after it, p = 0.0079")
    assert answer_change(better, low, high) == ("refuted", "more overlap after it, p = 0.0079")
    worse = dataclasses.replace(better, better=False)
    assert answer_change(worse, low, high).verdict == "confirmed"
    assert answer_change(better, low, low) == ("open", "p = 1")
    assert answer_change(better, high[:4], low) == ("open", "4 and 5 runs of 5 and 5")
    three = dataclasses.replace(better, seeds=(3, 3))
    assert answer_change(three, high[:3], low[:3]) == (
        "open",
        "p = 0.1; so few runs cannot give less than 0.1",
    )
    one = dataclasses.replace(better, seeds=(1, 1))
    assert answer_change(one, high[:1], low[:1]) == ("open", "a test takes two runs of each or more")


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A study's --out: two finished runs, one that still trains, one that diverged in its second epoch."""
    monkeypatch.setattr(study_runs, "PUBLISHED", dataclasses.replace(study.PUBLISHED, epochs=2))
    monkeypatch.setattr(study, "PUBLISHED", dataclasses.replace(study.PUBLISHED, epochs=2))
    folder = tmp_path / "runs"
    noise = np.random.default_rng(0)
    for seed, overlap in ((0, 0.01), (1, 0.03), (2, 0.5)):
        place = finished_run(folder / "arcloss" / "v1_2_3" / f"seed{seed}", seed, overlap=overlap)
        (place / "epochs").mkdir()
        arrays = {"embeddings": noise.normal(size=(10_000, 2)), "class_weights": noise.normal(size=(10, 2))}
        np.savez(place / "epochs" / "0002.npz", **arrays)
    (folder / "arcloss" / "v1_2_3" / "seed2" / "summary.json").unlink()
    place = finished_run(folder / "arcloss" / "v2" / "seed0", 0, variant="v2", margin={"name": "tutorial", "m": 0.5})
    (place / "summary.json").write_text(json.dumps({"verdict": "diverged", "epoch": 2, "step": 7}))
    return folder


def test_finished_runs_are_added_as_they_end(tmp_path, out, monkeypatch):
    results = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["tables", "study", "here"])
    said = study_runs.add_to_study(results, [out])
    assert said.startswith("3 finished runs") and said.endswith("1 left out that still train")
    result = json.loads((results / "study.json").read_text())
    table = study.variants_table(result)
    # 96 and 97 %: mean 96.5, deviation 1/√2; overlaps of 1 and 3 %.
    assert "| v1_2_3 | 96.50 ± 0.71 | 96.50 ± 0.71 | 30° | 2.00 | 2 separated |" in table
    assert "**open**: 2 runs of 3 |" in table and "| v0 | – | – | – | – | – |" in table
    (diverged,) = (run for run in result["runs"] if run["variant"] == "v2")
    assert diverged["verdict"] == "diverged" and diverged["test_accuracy"] == [0.9]
    with Image.open(results / "study.png") as image:
        assert image.width == 330  # one picture: the other variant has another loss

    place = out / "arcloss" / "v1_2_3" / "seed2"
    (place / "summary.json").write_text(json.dumps({"verdict": "separated", "epochs": 2}))
    monkeypatch.setattr(sys, "argv", ["tables", "study", "there"])
    for _ in range(2):
        study_runs.add_to_study(results, [out])
    result = json.loads((results / "study.json").read_text())
    assert result["command"] == [f"python -m experiments.tables study {place}" for place in ("here", "there")]
    assert {run["commit"] for run in result["runs"]} == {"c" * 40}  # with which they began
    assert [run["seed"] for run in result["runs"] if run["variant"] == "v1_2_3"] == [0, 1, 2]
    assert "3 separated | good: clearly separated, converges fast | **confirmed**" in study.variants_table(result)
    changes = study.changes_table(result)
    # 1, 3 and 50 %: mean 18, deviation √(2·(17² + 15² + 32²)/4) = 27.7
    assert (
        "(v1_2_2 → v1_2_3) | arcface | – | 18.00 ± 27.73 | better separated | **open**: 0 and 3 runs of 5 and 5"
        in changes
    )


def test_a_run_made_again_replaces_the_older_one_but_a_longer_one_does_not(tmp_path, out):
    results, place = tmp_path / "results", out / "arcloss" / "v2" / "seed0"

    def epochs_of_v2():
        study_runs.add_to_study(results, [out])
        runs = json.loads((results / "study.json").read_text())["runs"]
        return [(run["verdict"], run["epochs"]) for run in runs if run["variant"] == "v2"]

    assert epochs_of_v2() == [("diverged", 1)]
    (place / "summary.json").write_text(json.dumps({"verdict": "separated", "epochs": 2}))
    assert epochs_of_v2() == [("separated", 2)]
    *_, last = (place / "metrics.jsonl").read_text().splitlines()
    with (place / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(json.loads(last) | {"epoch": 3}) + "\n")
    (place / "summary.json").write_text(json.dumps({"verdict": "separated", "epochs": 3}))
    assert epochs_of_v2() == [("separated", 2), ("separated", 3)]


def test_runs_that_still_train_are_no_result(tmp_path, out):
    for summary in out.glob("arcloss/*/*/summary.json"):
        summary.unlink()
    with pytest.raises(UserError, match="none of 4 runs is finished yet"):
        study_runs.add_to_study(tmp_path / "results", [out])
    assert not (tmp_path / "results").exists()


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no runs in .*nothing"):
        study_runs.add_to_study(tmp_path, [tmp_path / "nothing"])


def record(variant, data, epochs=10):
    return {
        "variant": variant,
        "seed": 0,
        "verdict": "separated",
        "epochs": epochs,
        "test_accuracy": [0.8] * epochs,
        "train_loss": [4.0] * (epochs // 2) + [3.0] * (epochs // 4) + [2.7] * (epochs // 4),
        "smallest_gap_degrees": 30.0,
        "overlap": 0.1,
        "commit": "d" * 40,
        "environment": {"cpu": "a", "cpu_cores": 2, "python": "3.12", "jax": "0.12"},
        "command": "c",
        "config": {"data": data, "margin": {"name": "arcface", "m": 0.3}},
    }


def test_a_longer_run_answers_whether_the_loss_stops_falling():
    short, long = record("v1", "mnist"), record("v1", "mnist", epochs=20) | {"test_accuracy": [0.9] * 20}
    assert "1 separated | loss stops falling after ten-odd epochs | **open**: takes a run of 20 epochs |" in (
        study.variants_table({"runs": [short]})
    )
    table = study.variants_table({"runs": [short, long]})
    assert "| v1 | 80.00 | 80.00 |" in table and "**refuted**: the loss falls by 10.0 % from epochs 11–15 to" in table


def test_fashion_is_told_by_its_folder():
    run = record("v1_2_3", "idx:/data/fashion-mnist")
    assert "open, 0 runs of 3" in study.fashion_table({"runs": []})
    assert "n = 1: test accuracy 80.00 %" in study.fashion_table({"runs": [run]})
    of_fashion = run | {"commit": "f" * 40}
    assert "| v1_2_3 | – |" in study.variants_table({"runs": [of_fashion]})
    # The table of MNIST's runs says how these were made, whichever run is the first of the file.
    of_mnist = run | {"commit": "e" * 40, "command": "mnist", "config": run["config"] | {"data": "mnist"}}
    table = study.variants_table({"runs": [of_fashion, of_mnist]})
    assert "`mnist`; a, 2 cores" in table and table.count("`mnist`") == 1 and "`c`" not in table
    assert "Commit eeeeeeeee." in table
