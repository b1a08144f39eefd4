"""The figures and the table of a recognition run, made of its lines and kept arrays alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from experiments.recognition.judging import judge
from experiments.run.folder import Arrays, Folder, Line
from experiments.run.terminal import counted
from jaxnets.data import Dataset
from jaxnets.epochs import Evaluation
from jaxnets.recognition import Bootstrap
from jaxnets.train import TrainState

# Of the many figures, those that the closing table has: its name, the kind of report, and the figure's name there.
TOLD = (
    ("precision@1", "retrieval", "precision_at_1"),
    ("recall@5", "retrieval", "recall_at[5]"),
    ("MAP@R", "retrieval", "map_at_r"),
    ("AUC", "verification", "auc"),
    ("equal error rate", "verification", "eer"),
    ("TAR at FAR 1e-2", "verification", "tar_at_far[0.01]"),
    ("TAR at FAR 1e-3", "verification", "tar_at_far[0.001]"),
    ("TAR at FAR 1e-4", "verification", "tar_at_far[0.0001]"),
    ("rank-1", "identification", "rank_at[1]"),
    ("rank-5", "identification", "rank_at[5]"),
    ("TPIR at FPIR 1e-1", "identification", "tpir_at_fpir[0.1]"),
)


def measure(labels: Int32[np.ndarray, "N"]) -> Callable[[TrainState, Evaluation], tuple[Line, Arrays]]:
    """Every figure of an epoch, on the identities of the test, and the embeddings that they are of."""

    def of_epoch(state: TrainState, evaluation: Evaluation) -> tuple[Line, Arrays]:
        judgement = judge(evaluation.embeddings, labels, Bootstrap())
        line = {"map_at_r": judgement.retrieval.map_at_r, "recognition": judgement.as_dict()}
        return line, {"embeddings": evaluation.embeddings}

    return of_epoch


def draw_run(dataset: Dataset) -> Callable[[Folder, list[Line]], None]:
    def of_run(folder: Folder, lines: list[Line]) -> None:
        pass

    return of_run


def closing_words(directory: Path, summary: Line) -> str:
    """The short table of the last epoch, and where to look."""
    last, best = summary["last"], summary["best"]
    reports = last["recognition"]
    counts = reports["retrieval"]
    return "\n".join(
        (
            f"{counted(counts['num_identities'], 'unseen identity').replace('identitys', 'identities')}, "
            f"{counts['num_queries']:,} pictures, after {counted(summary['epochs'], 'epoch')} "
            f"(MAP@R was best, {best['map_at_r']:.4f}, after {best['epoch']})",
            *table(reports),
            f"every figure: {directory / 'metrics.jsonl'}",
        )
    )


def table(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each figure of `TOLD` that there is, with its interval or why it is not stated."""
    confidence = reports["retrieval"]["confidence"]
    rows = [("", "", f"{confidence:.0%} interval")]
    for words, kind, name in TOLD:
        report = reports[kind]
        if name not in report:
            continue
        value, (low, high) = report[name], report["intervals"].get(name, (None, None))
        ends = "" if low is None or high is None else f"{100 * low:.2f} – {100 * high:.2f}"
        rows.append((words, "–" if value is None else f"{100 * value:.2f} %", report["not_stated"].get(name, ends)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"  {words:<{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for words, value, note in rows]
