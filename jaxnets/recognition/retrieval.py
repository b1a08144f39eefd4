"""Retrieval: the nearest examples to a query, of classes that training never saw."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from jaxnets.recognition.blocks.nearest import neighbours
from jaxnets.recognition.inputs import (
    Labels,
    Matrix,
    checked_embeddings,
    checked_gallery,
    checked_labels,
    checked_ranks,
)
from jaxnets.recognition.intervals import BOOTSTRAP, Bootstrap
from jaxnets.recognition.report import Report

RANKS = (1, 5, 10)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Retrieval(Report):
    """Means over the queries that have a match in the gallery; R is a query's number of matches.

    Attributes:
      num_queries: all of them.
      num_without_match: queries without a match in the gallery. They are in no figure: neither a hit nor a miss.
      num_gallery: examples that a query is compared with.
      num_identities: labels of queries that have a match.
      precision_at_1: share whose nearest example matches.
      recall_at: by k, share with a match among the k nearest.
      r_precision: mean share of matches among the R nearest.
      map_at_r: mean of 1/R · Σ P(i) over the ranks i ≤ R that have a match, with P(i) the share of matches among the
        i nearest (K. Musgrave, S. Belongie, S.-N. Lim, A Metric Learning Reality Check, 2020).
      ndcg_at: by k, mean of Σ 1/log₂(i + 1) over the ranks i ≤ k that have a match, divided by the same sum over
        i ≤ min(k, R) (K. Järvelin, J. Kekäläinen, Cumulated gain-based evaluation, 2002).
      knn_accuracy_at: by k, share whose own label is more frequent among the k nearest than each other label.
    """

    num_queries: int
    num_without_match: int
    num_gallery: int
    num_identities: int
    precision_at_1: float
    r_precision: float
    map_at_r: float
    recall_at: Mapping[int, float]
    ndcg_at: Mapping[int, float]
    knn_accuracy_at: Mapping[int, float]

    def title(self) -> str:
        return (
            f"Retrieval: {self.num_queries - self.num_without_match:,} queries of {self.num_identities:,} identities "
            f"among {self.num_gallery:,} examples; {self.num_without_match:,} more without a match are left out"
        )


def retrieval(
    embeddings: Matrix,
    labels: Labels,
    *,
    gallery: Matrix | None = None,
    gallery_labels: Labels | None = None,
    ranks: Sequence[int] | None = None,
    bootstrap: Bootstrap | None = BOOTSTRAP,
    mesh: Mesh | None = None,
) -> Retrieval:
    """Ranks a gallery by its cosines with each query; without a gallery, all embeddings but the query itself.

    Ties are never in one's favour (`jaxnets.recognition.ties`): at one score, examples of other labels come before
    matches, and a label that is only as frequent as another loses the vote. Which of several examples of other labels
    at one score comes first is not defined.

    Args:
      embeddings: [N, D] queries, of any length.
      labels: [N] integers or strings.
      gallery: [M, D].
      gallery_labels: [M].
      ranks: the k of recall@k, nDCG@k and the vote of k neighbours; None: 1, 5 and 10, up to the size of the gallery.
      bootstrap: how intervals are made: queries by their identities; the gallery stays. None makes none.
      mesh: devices to share the queries.

    Raises:
      ValueError: the input does not fit, has numbers that are not finite, or vectors of zeros; all labels are the
        same; no query has a match; a rank is larger than the gallery.
    """
    rows = checked_embeddings("embeddings", embeddings)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("a gallery needs gallery_labels, and these a gallery: give both, or neither")
    if gallery is None or gallery_labels is None:
        others = rows
        (codes,), distinct = checked_labels(("labels", labels, len(rows)))
        other_codes = codes
    else:
        others = checked_gallery("gallery", gallery, rows, "embeddings")
        named = ("labels", labels, len(rows)), ("gallery_labels", gallery_labels, len(others))
        (codes, other_codes), distinct = checked_labels(*named)
    if len(distinct) < 2:
        raise ValueError("all labels are the same: whatever is nearest matches, and retrieval says nothing")
    alone = int(gallery is None)
    ranks = checked_ranks("ranks", ranks, RANKS, len(others) - alone)
    matches = np.bincount(other_codes, minlength=len(distinct))[codes] - alone
    if not matches.any():
        raise ValueError("no query has a match in the gallery: retrieval needs two examples or more of a label")

    longest = int(max(matches.max(), *ranks))
    figures = np.concatenate(
        [
            _figures(other_codes[found.indices], codes[part], matches[part], ranks)
            for found in neighbours(
                rows, others, longest, labels=(codes, other_codes), leave_one_out=bool(alone), mesh=mesh
            )
            for part in [slice(found.start, found.start + len(found.keys))]
        ]
    )[matches > 0]

    names = ["precision_at_1", "r_precision", "map_at_r"]
    names += [f"{kind}[{k}]" for kind in ("recall_at", "ndcg_at", "knn_accuracy_at") for k in ranks]
    values = dict(zip(names, figures.mean(axis=0).tolist(), strict=True))
    present, identities = np.unique(codes[matches > 0], return_inverse=True)
    intervals = {}
    if bootstrap is not None:
        sums = np.stack([np.bincount(identities, column, len(present)) for column in figures.T], axis=1)
        counts = np.bincount(identities).astype(np.float64)
        intervals = dict(zip(names, bootstrap.means(sums, counts), strict=True))
    return Retrieval(
        num_queries=len(rows),
        num_without_match=int((matches == 0).sum()),
        num_gallery=len(others) - alone,
        num_identities=len(present),
        precision_at_1=values["precision_at_1"],
        r_precision=values["r_precision"],
        map_at_r=values["map_at_r"],
        recall_at={k: values[f"recall_at[{k}]"] for k in ranks},
        ndcg_at={k: values[f"ndcg_at[{k}]"] for k in ranks},
        knn_accuracy_at={k: values[f"knn_accuracy_at[{k}]"] for k in ranks},
        intervals=intervals,
        not_stated={},
        confidence=bootstrap.confidence if bootstrap is not None else None,
    )


def _figures(
    found: Int[np.ndarray, "B K"], own: Int[np.ndarray, "B"], matches: Int[np.ndarray, "B"], ranks: Sequence[int]
) -> Float[np.ndarray, "B F"]:
    """Of each query, every figure: of the labels of its K nearest, its own label, and R."""
    hits = found == own[:, None]
    positions = np.arange(1, hits.shape[1] + 1)
    within = hits & (positions <= matches[:, None])
    r = np.maximum(matches, 1)
    precisions = np.cumsum(within, axis=1) / positions
    columns = [hits[:, 0], within.sum(axis=1) / r, (precisions * within).sum(axis=1) / r]
    columns += [hits[:, :k].any(axis=1) for k in ranks]
    gains = 1 / np.log2(positions + 1)
    best = np.cumsum(gains)
    columns += [(hits[:, :k] * gains[:k]).sum(axis=1) / best[np.minimum(r, k) - 1] for k in ranks]
    columns += [_wins_vote(found[:, :k], hits[:, :k]) for k in ranks]
    return np.stack(columns, axis=1).astype(np.float64)


def _wins_vote(labels: Int[np.ndarray, "B k"], hits: Bool[np.ndarray, "B k"]) -> Bool[np.ndarray, "B"]:
    """Whether more of the k neighbours have the own label than any other one."""
    order = np.argsort(labels, axis=1, kind="stable")
    labels, is_own = np.take_along_axis(labels, order, axis=1), np.take_along_axis(hits, order, axis=1)
    # In order of labels, each is counted along its run.
    positions = np.arange(labels.shape[1])
    begins = np.concatenate([np.ones((len(labels), 1), bool), labels[:, 1:] != labels[:, :-1]], axis=1)
    votes = positions + 1 - np.maximum.accumulate(np.where(begins, positions, 0), axis=1)
    return hits.sum(axis=1) > np.where(is_own, 0, votes).max(axis=1)
