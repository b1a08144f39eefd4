"""The pages show the committed results, and results are gathered from runs as the tables expect."""

import json
import re

import pytest

from experiments.run.stored import NUMBERS
from experiments.run.terminal import UserError
from experiments.tables.cells import RESULTS
from experiments.tables.collect import collect, compare, recognised
from experiments.tables.pages import PAGES, README, TABLES, with_tables
from experiments.tables.runs import default_run_table, kills_line, recognition_line, recognition_table, sources_table
from experiments.tables.speed import accuracy_table, pairs_line, search_table

ENVIRONMENT = {"cpu": "a CPU", "cpu_cores": 2, "python": "3.11", "jax": "0.10.2", "commit": "c" * 40}


def test_the_pages_show_what_was_measured():
    texts = [page.read_text() for page in PAGES]
    assert [with_tables(text) for text in texts] == texts
    for name, (result, _) in TABLES.items():
        blocks = [
            block for text in texts for block in re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        ]
        assert len(blocks) == 1 and blocks[0].strip() and (RESULTS / f"{result}.json").exists(), name


def test_the_readme_is_a_first_page():
    assert len(README.read_text().splitlines()) <= 150
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_each_result_says_how_it_was_made():
    for file in RESULTS.glob("*.json"):
        record = json.loads(file.read_text())
        assert record["command"] and record["environment"]["jax"] and record["environment"]["cpu"], file.name


def finished_run(folder, seed, **changes):
    """Two epochs of v1_2_3 on MNIST; `verdict` and `overlap` are the last epoch's."""
    verdict, overlap = changes.pop("verdict", "separated"), changes.pop("overlap", 0.02)
    folder.mkdir(parents=True)
    config = {"variant": "v1_2_3", "seed": seed, "data": "mnist", "scale": 3.1, "classes": [*"0123456789"]}
    config |= {"margin": {"name": "arcface", "m": 0.3}} | changes
    record = {"config": config, "environment": ENVIRONMENT, "command": "python -m experiments.arcloss"}
    (folder / "config.json").write_text(json.dumps(record))
    lines = [
        {
            **dict.fromkeys(NUMBERS, 0.9),
            "epoch": epoch,
            "test_accuracy": accuracy,
            "verdict": verdict,
            "separability": {"smallest_gap_degrees": 30.4, "largest_gap_degrees": 40.0, "overlap": overlap},
        }
        for epoch, accuracy in ((1, 0.9), (2, 0.96 + seed / 100))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"verdict": verdict, "epochs": 2, "last": lines[-1]}))
    return folder


def test_runs_are_collected_into_a_table(tmp_path):
    runs = [finished_run(tmp_path / str(seed), seed) for seed in (0, 1)]
    text = default_run_table(collect(runs))
    assert "| 0 | 90.00 | 96.00 | 30°–40° | separated |" in text
    assert "n = 2; the last 96.50 ± 0.71 %" in text and "a CPU, 2 cores, Python 3.11, JAX 0.10.2" in text
    with pytest.raises(UserError, match="differ in more than their seed"):
        collect([*runs, finished_run(tmp_path / "other", 2, margin={"name": "cosface"})])


def finished_recognition(folder, seed, rank_1, **changes):
    """One epoch, whose equal error rate is a tenth and whose TAR at FAR 1e-4 is not stated."""
    folder.mkdir(parents=True)
    environment = ENVIRONMENT | changes.pop("environment", {})
    seconds = 240.0 / environment["cpu_cores"]
    config = {"variant": "v0", "seed": seed, "data": "glyphs", "data_fingerprint": "f", "scale": 64.0, "enrolled": 0.75}
    config |= {"margin": {"name": "arcface", "m": 0.5}, "augment": False, "subcenters": 1, "embedding": 128}
    config |= {"averaging": None, "classes": ["a"], "data_notes": []} | changes
    (folder / "config.json").write_text(json.dumps({"config": config, "environment": environment, "command": "it"}))
    retrieval = {
        "precision_at_1": 0.5,
        "map_at_r": 0.25,
        "num_queries": 2824,
        "num_identities": 515,
        "confidence": 0.95,
    }
    verified = {"eer": 0.1, "tar_at_far[0.001]": 0.4, "tar_at_far[0.0001]": None, "intervals": {"eer": [0.05, 0.2]}}
    reports = {"retrieval": retrieval | {"intervals": {}}, "verification": verified}
    reports["identification"] = {"rank_at[1]": rank_1, "intervals": {}}
    of_sources = {"Brush Regular": rank_1 / 2, "Print Regular": rank_1}
    reports["by_source"] = {"rank_1": of_sources, "num_with_mate": {"Brush Regular": 1000, "Print Regular": 1500}}
    line = {"epoch": 1, "train_loss": 9.0, "map_at_r": 0.25, "seconds": seconds, "recognition": reports}
    line |= {"learning_rate": 0.1, "train_accuracy": 0.5, "images_per_second": 10.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "summary.json").write_text(json.dumps({"verdict": None, "epochs": 1, "last": line}))
    return folder


def test_recognition_is_gathered_by_recipe(tmp_path):
    runs = [finished_recognition(tmp_path / str(seed), seed, rank_1) for seed, rank_1 in ((0, 0.4), (1, 0.5))]
    slower = {"augment": {"elastic": 0.03}, "subcenters": 3, "environment": {"cpu_cores": 1}}
    other = finished_recognition(tmp_path / "other", 0, 0.3, **slower)
    result = recognised([*runs, other])
    assert "classes" not in result["rows"][0]["config"] and len(result["command"]) == 3
    text = recognition_table(result).splitlines()
    both = "| v0 | arcface, s = 64 | – | 1 | 2 | 50.0 ± 0.0 | 25.0 ± 0.0 | 10.0 ± 0.0 | 40.0 ± 0.0 | – | 45.0 ± 7.1 |"
    assert text[2] == both
    assert text[3].startswith(
        "| v0 | arcface, s = 64 | augmentation, elastic 0.03, 3 sub-centres | 1 | 1 | 50.0 | 25.0 |"
    )
    assert text[3].endswith("| 10.0 (5.0–20.0) | 40.0 | – | 30.0 |")
    # The run on one core took four minutes; the line tells of two cores.
    assert "2,824 pictures of 515 identities that training never saw; 2 minutes of training a run. `it`;" in text[-1]
    assert "a CPU, 2 cores, Python 3.11" in text[-1]
    assert sources_table(result).splitlines() == [
        "| network | loss | with | epochs | Print | Brush |",
        "|---|---|---|---|---|---|",
        "| v0 | arcface, s = 64 | – | 1 | 45.0 ± 7.1 | 22.5 ± 3.5 |",
        "| v0 | arcface, s = 64 | augmentation, elastic 0.03, 3 sub-centres | 1 | 30.0 | 15.0 |",
        "",
        "Rank-1 in % of 1,000 to 1,500 probes of each design, mean ± standard deviation over seeds.",
    ]
    line = recognition_line(result)
    assert (
        "On 515 characters that training never saw it reaches P@1 50.0 ± 0.0 %, MAP@R 25.0 ± 0.0 %, rank-1 45.0" in line
    )
    assert "(2 seeds;" in line
    with pytest.raises(UserError, match="these runs are of different pictures"):
        recognised([*runs, finished_recognition(tmp_path / "third", 0, 0.3, data_fingerprint="g")])
    with pytest.raises(UserError, match=r"is no run of python -m experiments\.arcloss"):
        collect(runs)


def test_kills_are_counted_by_signal():
    counts = {"kills": {"SIGINT": 2, "SIGKILL": 1}, "runs": 4, "scenarios": ["digits", "folder"], "faults": []}
    text = kills_line({"command": "python -m experiments.kill --kills 3", "environment": ENVIRONMENT, **counts})
    assert text.startswith("3 kills (2 SIGINT, 1 SIGKILL) of 4 runs at random moments (digits; folder): 0 faults.")


def test_only_finished_runs_of_the_right_command_are_collected(tmp_path):
    run = finished_run(tmp_path / "run", 0)
    with pytest.raises(UserError, match=r"run is no run of python -m experiments\.mynn"):
        compare([run])
    (run / "summary.json").write_text('{"verdict": "diverged", "epoch": 2, "step": 3}')
    with pytest.raises(UserError, match="run has diverged"):
        collect([run])
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="run has not ended"):
        collect([run])


def test_accuracies_of_several_seeds_are_averaged_for_each_epoch():
    rows = [
        {"seed": seed, "epoch": epoch}
        | {name: {"test_accuracy": accuracy + seed / 100, "train_loss": 1 / epoch} for name in ("jaxnets", "torch")}
        for seed in (0, 1)
        for epoch, accuracy in ((1, 0.9), (2, 0.96))
    ]
    result = {"command": "python -m experiments.bench accuracy", "environment": ENVIRONMENT, "rows": rows}
    assert "| 2 | 96.50 ± 0.71 | 96.50 ± 0.71 | 0.5000 | 0.5000 |" in accuracy_table(result)
    one = accuracy_table(result | {"rows": rows[:2]})
    assert "| 1 | 90.00 | 90.00 | 1.0000 | 1.0000 |" in one and "seeds" not in one


def test_a_search_is_held_against_faiss_and_pairs_are_counted():
    row = {
        "name": "search",
        "jaxnets": {"median_seconds": 50.0, "peak_bytes": 300 * 2**20},
        "faiss": {"median_seconds": 60.0, "peak_bytes": 2**30},
    }
    result = {"command": "python -m experiments.bench search", "environment": ENVIRONMENT, "rows": [row]}
    text = search_table(
        result | {"faiss": "1.9.0", "queries": 10_000, "gallery": 1_000_000, "dimensions": 512, "k": 10}
    )
    assert "| faiss 1.9.0, IndexFlatIP | 60.0 | 1.20 | 1,024 MiB |" in text
    assert "The 10 nearest of 10,000 queries against 1,000,000 embeddings of 512 dimensions" in text

    line = pairs_line(result | {"embeddings": 1_000, "dimensions": 64})
    assert line.startswith(
        "Verification of all 499,500 pairs of 1,000 embeddings of 64 dimensions, with intervals: 50 s,"
    )
