"""The tables of the ArcLoss study: every variant over its seeds, the changes between variants, and Fashion-MNIST."""

import dataclasses
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.arcloss.variants import VARIANTS
from experiments.tables.cells import RESULTS, head, made_by, mean, percent, row
from experiments.tables.claims import CHANGES, ENDINGS, Answer, Ending, answer_change, answer_ending, answer_plateau

Run = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """The data and the loss that the runs of a table share; `data` is the last part of the option's words."""

    name: str
    data: str
    margin: str
    m: float
    epochs: int = 10


PUBLISHED = Setup("ArcFace, m = 0.3, s = 3.11", "mnist", "arcface", 0.3)
TUTORIAL = Setup("the tutorial form, m = 0.5, s = 10", "mnist", "tutorial", 0.5)
FASHION = Setup("ArcFace, m = 0.3, s = 3.11", "fashion-mnist", "arcface", 0.3)


def belongs(run: Run, setup: Setup) -> bool:
    """Whether the run has this setup: as many epochs, or fewer where it diverged."""
    config = run["config"]
    loss = config["margin"]["name"], config["margin"]["m"]
    whole = run["epochs"] == setup.epochs or run["verdict"] == "diverged"
    return Path(config["data"].split(":")[-1]).name == setup.data and loss == (setup.margin, setup.m) and whole


def runs_of(result: dict[str, Any], setup: Setup, variant: str) -> list[Run]:
    return [run for run in result["runs"] if run["variant"] == variant and belongs(run, setup)]


def variants_table(result: dict[str, Any]) -> str:
    columns = ("variant", "last", "best", "smallest gap", "overlap", "runs end", "the study says", "answer")
    rows, published = head(columns), []
    for name, variant in VARIANTS.items():
        runs = runs_of(result, PUBLISHED, name)
        published += runs
        rows.append(row([name, *_measures(runs), _verdicts(runs), variant.verdict, _said(_answer(result, name, runs))]))
    rows += [
        "",
        f"Test accuracy in %, mean ± standard deviation over seeds, after {PUBLISHED.epochs} epochs and in the best; "
        f"{PUBLISHED.name}. Smallest gap: mean angle between the two nearest class directions, ideally 36°. Overlap: "
        f"test images nearer to another class's mean direction than to their own, in %. {_made(published)}".rstrip(),
    ]
    if (RESULTS / "study.png").exists():
        rows += ["", "![the variants after their last epoch](experiments/results/study.png)"]
    return "\n".join(rows)


def _answer(result: dict[str, Any], name: str, runs: list[Run]) -> Answer:
    statement = ENDINGS[name]
    if isinstance(statement, Ending):
        return answer_ending(statement, [run["verdict"] for run in runs])
    longer = runs_of(result, dataclasses.replace(PUBLISHED, epochs=statement.epochs), name)
    return answer_plateau(statement, longer[0]["train_loss"] if longer else [])


def changes_table(result: dict[str, Any]) -> str:
    rows = head(("change", "loss", "overlap before", "overlap after", "the study says", "answer"))
    for change in CHANGES:
        for setup in (PUBLISHED, TUTORIAL):
            before, after = (
                [run["overlap"] for run in runs_of(result, setup, name) if run["overlap"] is not None]
                for name in (change.before, change.after)
            )
            if setup is TUTORIAL and not (before or after):
                continue
            name = f"{change.name} ({change.before} → {change.after})"
            overlaps = (mean(values) if values else "–" for values in (before, after))
            says = "better separated" if change.better else "worse separated"
            rows.append(row([name, setup.margin, *overlaps, says, _said(answer_change(change, before, after))]))
    rows += [
        "",
        "Overlap in %, mean ± standard deviation over seeds. p: exact permutation test of the difference of means, "
        "two-sided, not adjusted for the number of tests; with five runs of each it cannot be below 0.008.",
    ]
    return "\n".join(rows)


def fashion_table(result: dict[str, Any]) -> str:
    """Of a set on which no number was chosen."""
    runs = runs_of(result, FASHION, "v1_2_3")
    if not runs:
        return "Fashion-MNIST with the same settings: open, 0 runs of 3."
    last, best, gap, overlap = _measures(runs)
    return (
        f"Fashion-MNIST with the same settings, n = {len(runs)}: test accuracy {last} %, the best of a run {best} %, "
        f"smallest gap {gap}, overlap {overlap} %; runs end: {_verdicts(runs)}. {made_by(runs[0])}"
    )


def _measures(runs: list[Run]) -> list[str]:
    """Last and best accuracy, smallest gap and overlap, each a mean over the runs that have it."""
    trained = [run for run in runs if run["test_accuracy"]]
    last, best = ([of(run["test_accuracy"]) for run in trained] for of in (lambda values: values[-1], max))
    gaps, overlaps = (
        [run[name] for run in runs if run[name] is not None] for name in ("smallest_gap_degrees", "overlap")
    )
    return [
        mean(last) if last else "–",
        mean(best) if best else "–",
        f"{statistics.mean(gaps):.0f}°" if gaps else "–",
        percent(statistics.mean(overlaps)) if overlaps else "–",
    ]


def _verdicts(runs: list[Run]) -> str:
    """As in 2 separated, 1 overlapping."""
    return (
        ", ".join(f"{number} {word}" for word, number in Counter(run["verdict"] for run in runs).most_common()) or "–"
    )


def _said(answer: Answer) -> str:
    return f"**{answer.verdict}**: {answer.reason}"


def _made(runs: list[Run]) -> str:
    """The first one's command; the processors and commits of all."""
    if not runs:
        return ""
    commits = sorted({run["commit"][:9] for run in runs if run["commit"]})
    by = f" Commit {', '.join(commits)}." if commits else ""
    processors = sorted({run["environment"]["cpu"] for run in runs})
    others = f" Runs on {' and '.join(processors)}." if len(processors) > 1 else ""
    return f"{made_by(runs[0])}{others}{by}"
