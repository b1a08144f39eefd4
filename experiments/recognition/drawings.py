"""The figures and the table of a recognition run, made of its lines and kept arrays alone."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from experiments import page
from experiments.recognition.judging import judge
from experiments.run.folder import Arrays, Folder, Line
from experiments.run.terminal import counted
from jaxnets import figures
from jaxnets.data import Dataset
from jaxnets.data.dataset import GivenPairs, Sources
from jaxnets.epochs import Evaluation
from jaxnets.files import write_atomically
from jaxnets.recognition import Bootstrap, nearest, verification
from jaxnets.recognition.report import ERRORS, aligned
from jaxnets.train import TrainState

# The figures of the closing table: name, the kind of report, and the figure's name there.
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
    ("given pairs right", "pairs", "accuracy"),
)


PANELS = {
    "retrieval, %": (TOLD[0], TOLD[2]),
    "verification: TAR, %": tuple((f"FAR 1e-{n}", "verification", f"tar_at_far[{10.0**-n:g}]") for n in (1, 2, 3)),
    "identification, %": (("rank 1", *TOLD[8][1:]), ("rank 5", *TOLD[9][1:]), ("TPIR, FPIR 0.1", *TOLD[10][1:])),
}
QUERIES, SHOWN = 16, 5  # of a sheet, and pictures beside each


def measure(
    labels: Int32[np.ndarray, "N"], pairs: GivenPairs | None, sources: Sources | None
) -> Callable[[TrainState, Evaluation], tuple[Line, Arrays]]:
    """Every figure of an epoch, on the identities of the test, and the embeddings that they are of."""

    def of_epoch(state: TrainState, evaluation: Evaluation) -> tuple[Line, Arrays]:
        judgement = judge(evaluation.embeddings, labels, Bootstrap(), pairs, sources)
        line = {"map_at_r": judgement.retrieval.map_at_r, "recognition": judgement.as_dict()}
        return line, {"embeddings": evaluation.embeddings, "labels": labels}

    return of_epoch


def draw_run(name: str, dataset: Dataset) -> Callable[[Folder, list[Line]], None]:
    """The figures of the last epoch, and the curves over all."""
    labels = np.asarray(dataset.test.labels)

    def of_run(folder: Folder, lines: list[Line]) -> None:
        last = lines[-1]
        embeddings = folder.arrays(last["epoch"])["embeddings"]
        retrieved, verified, identified, _, by_source = judge(embeddings, labels, None, sources=dataset.sources)
        title = f"{name} · epoch {last['epoch']}"
        of_unseen = f"{dataset.name} · {retrieved.num_identities:,} identities that training never saw"
        pairs = f"{of_unseen} · {verified.num_genuine:,} genuine and {verified.num_impostor:,} impostor pairs"
        roc, smallest = verified.roc, ERRORS / verified.num_impostor
        thresholds = {
            f"FAR {far:.0e}".replace("e-0", "e-"): at for far, at in verified.threshold_at_far.items() if at is not None
        }
        probes = f"{of_unseen} · {identified.num_with_mate:,} probes, {identified.num_templates:,} templates"
        cosines, found = _neighbours(embeddings)
        queries = _queries(cosines, found, labels)
        sample, mistakes = (_sheet(group, cosines, found, labels, dataset) for group in queries)
        pictures = {
            "roc.png": figures.roc(
                {name: (roc.far, roc.tar)}, smallest_far=min(smallest, 0.1), title=title, subtitle=pairs
            ),
            "cosines.png": figures.cosine_distributions(
                roc.thresholds,
                roc.far,
                roc.tar,
                marked={far: at for far, at in thresholds.items() if math.isfinite(at)},
                title=title,
                subtitle=pairs,
            ),
            "cmc.png": figures.cmc({name: identified.cmc}, title=title, subtitle=probes),
            "nearest.png": figures.nearest_sheet(
                sample, title=f"{title} · queries drawn at random, and their five nearest", subtitle=of_unseen
            ),
            "mistakes.png": figures.nearest_sheet(
                mistakes, title=f"{title} · the surest of the wrong answers", subtitle=of_unseen
            ),
            "curves.png": figures.figures_over_epochs(
                np.array([line["train_loss"] for line in lines], np.float64),
                {heading: _series(lines, rows) for heading, rows in PANELS.items()},
                title=name,
                subtitle=of_unseen,
            ),
        }
        if by_source is not None:
            groups = {name: (share, by_source.num_with_mate[name]) for name, share in by_source.rank_1.items()}
            pictures["sources.png"] = figures.shares(
                groups, heading="rank 1 of each design, %", title=title, subtitle=probes
            )
        for file, figure in pictures.items():
            write_atomically(folder.path / file, figures.to_png(figure))
        write_atomically(folder.path / "index.html", _page(folder, lines, dataset, queries, smallest, of_unseen))

    return of_run


def _page(
    folder: Folder,
    lines: list[Line],
    dataset: Dataset,
    queries: tuple[Int[np.ndarray, "q"], Int[np.ndarray, "w"]],
    smallest_far: float,
    said: str,
) -> bytes:
    """The last epoch's queries, through the epochs."""
    labels, kept, begun = np.asarray(dataset.test.labels), page.spread(lines), folder.begun()
    (drawn, surest), asked = queries, np.concatenate(queries)

    def judged(line: Line) -> page.Judged:
        embeddings = folder.arrays(line["epoch"])["embeddings"]
        cosines, found = _neighbours(embeddings, asked)
        roc = verification(embeddings, labels, bootstrap=None).roc
        return page.Judged(line, _figures(line["recognition"]), roc, found, cosines)

    return page.recognition_page(
        [judged(line) for line in kept],
        {"drawn at random": drawn, "surest mistakes at the end": surest},
        labels,
        dataset.test.images,
        smallest_far=smallest_far,
        names=_names(dataset),
        said=said,
        title=f"{begun['config']['variant']} · {begun['config']['margin']['name']} · seed {begun['config']['seed']}",
        command=begun["command"],
        config={name: value for name, value in begun["config"].items() if name not in ("classes", "data_notes")},
    )


def _figures(reports: Mapping[str, Mapping[str, Any]]) -> list[page.Figure]:
    """Those of `TOLD` that there are."""
    made = []
    for words, kind, name in TOLD:
        report = reports.get(kind, {})
        if name in report:
            low, high = report["intervals"].get(name, (None, None))
            made.append(page.Figure(words, report[name], low, high, report["not_stated"].get(name, "")))
    return made + [page.Figure(f"rank-1 of {name}", share, None, None, "") for name, share, _ in _by_source(reports)]


def _by_source(reports: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, int]]:
    """Each source's name, rank-1 and number of probes, the best first."""
    report = reports.get("by_source", {"rank_1": {}})
    found = [(name, share, report["num_with_mate"][name]) for name, share in report["rank_1"].items()]
    return sorted(found, key=lambda row: -row[1])


def _series(lines: list[Line], rows: Sequence[tuple[str, str, str]]) -> dict[str, figures.Series]:
    found = {}
    for words, kind, name in rows:
        reports = [line["recognition"][kind] for line in lines]
        ends = [report["intervals"].get(name, (None, None)) for report in reports]
        columns = ([report.get(name) for report in reports], [low for low, _ in ends], [high for _, high in ends])
        found[words] = figures.Series(*(np.array(column, np.float64) for column in columns))  # None becomes NaN
    return found


def _neighbours(
    embeddings: Float[np.ndarray, "N D"], queries: Int[np.ndarray, "Q"] | None = None
) -> tuple[Float[np.ndarray, "Q K"], Int[np.ndarray, "Q K"]]:
    """Cosines and numbers of the pictures nearest to each query, itself left out; None asks for all queries."""
    asked = np.arange(len(embeddings)) if queries is None else queries
    count = min(SHOWN + 1, len(embeddings))
    cosines, found = nearest(embeddings[asked], embeddings, count)
    # The query need not be the first where others have the same embedding.
    others = np.argsort(found == asked[:, None], axis=1, kind="stable")[:, : count - 1]
    return np.take_along_axis(cosines, others, axis=1), np.take_along_axis(found, others, axis=1)


def _queries(
    cosines: Float[np.ndarray, "N K"], found: Int[np.ndarray, "N K"], labels: Int32[np.ndarray, "N"]
) -> tuple[Int[np.ndarray, "q"], Int[np.ndarray, "w"]]:
    """Queries drawn at random among all that have a match, and the queries whose wrong nearest has the highest cosine.

    Of an identity there is one query at most.
    """
    has_match = np.bincount(labels)[labels] > 1
    surest = np.flatnonzero(has_match & (labels[found[:, 0]] != labels))

    def first_of_each(order: Int[np.ndarray, "n"]) -> Int[np.ndarray, "q"]:
        _, first = np.unique(labels[order], return_index=True)
        return order[np.sort(first)][:QUERIES]

    drawn = np.random.RandomState(0).permutation(np.flatnonzero(has_match))
    return first_of_each(drawn), first_of_each(surest[np.argsort(-cosines[surest, 0], kind="stable")])


def _sheet(
    queries: Int[np.ndarray, "q"],
    cosines: Float[np.ndarray, "N K"],
    found: Int[np.ndarray, "N K"],
    labels: Int32[np.ndarray, "N"],
    dataset: Dataset,
) -> list[figures.Found]:
    names = _names(dataset)
    return [
        figures.Found(
            query=np.asarray(dataset.test.images[query]),
            name=names[labels[query]],
            pictures=[np.asarray(dataset.test.images[index]) for index in found[query]],
            names=[names[labels[index]] for index in found[query]],
            cosines=cosines[query],
            matches=labels[found[query]] == labels[query],
        )
        for query in queries.tolist()
    ]


def _names(dataset: Dataset) -> list[str]:
    """Of a character its code point: the font of figures does not have all that are in others."""
    return [codes[0] if (codes := re.findall(r"U\+[0-9A-F]{4,6}", name)) else name for name in dataset.classes]


def closing_words(directory: Path, summary: Line) -> str:
    """The short table of the last epoch, and where to look."""
    last, best = summary["last"], summary["best"]
    reports = last["recognition"]
    counts = reports["retrieval"]
    return "\n".join(
        (
            f"{counts['num_identities']:,} unseen identities, {counts['num_queries']:,} pictures, "
            f"after {counted(summary['epochs'], 'epoch')} "
            f"(MAP@R was best, {best['map_at_r']:.4f}, after {best['epoch']})",
            *table(reports),
            f"every figure: {directory / 'metrics.jsonl'}",
            f"look into it: {directory / 'index.html'}",
            f"see {directory / 'roc.png'}, {directory / 'nearest.png'} and beside them",
        )
    )


def table(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each figure of `TOLD` that there is, with its interval or why it is not stated."""
    confidence = reports["retrieval"]["confidence"]
    rows = [("", "", f"{confidence:.0%} interval")]
    for words, kind, name in TOLD:
        report = reports.get(kind, {})
        if name not in report:
            continue
        value, (low, high) = report[name], report["intervals"].get(name, (None, None))
        ends = "" if low is None or high is None else f"{100 * low:.2f} – {100 * high:.2f}"
        if kind == "pairs":
            ends += f"; ± {100 * report['accuracy_std']:.2f} over folds"
        rows.append((words, "–" if value is None else f"{100 * value:.2f} %", report["not_stated"].get(name, ends)))
    for source, share, number in _by_source(reports):
        rows.append((f"rank-1 of {source}", f"{100 * share:.2f} %", f"of {number:,} probes"))
    return aligned(rows)
