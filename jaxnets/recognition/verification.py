"""Verification: whether two embeddings are of one identity, which training never saw."""

import dataclasses
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxnets.recognition.blocks.pairs import Counts, counts_by_identity, counts_by_score
from jaxnets.recognition.given_pairs import GivenPairs
from jaxnets.recognition.inputs import Labels, Matrix, checked_embeddings, checked_labels
from jaxnets.recognition.intervals import BOOTSTRAP, Bootstrap, Interval
from jaxnets.recognition.pair_intervals import Levels
from jaxnets.recognition.report import Report, checked_rates, why_unstated
from jaxnets.recognition.roc import Roc

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Verification(Report):
    """How well a threshold on the cosine tells genuine pairs (one label) from impostor pairs (two labels).

    Attributes:
      num_identities: labels that a pair has.
      num_genuine, num_impostor: pairs.
      auc: area under the ROC; a tie counts half.
      eer: equal error rate.
      tar_at_far: by false acceptance rate, the true acceptance rate at the lowest threshold that accepts no greater
        share of impostors; None where that would be fewer than ten of them (`not_stated`).
      threshold_at_far: that threshold; None likewise; ∞ where it accepts no pair.
      accuracy: of given pairs, the mean over the folds of the share that is decided right, by the threshold that is
        best for the other folds.
      accuracy_std: standard deviation over the folds (divided by their number).
      accuracy_of_folds: each fold's.
      roc: the whole curve.
    """

    num_identities: int
    num_genuine: int
    num_impostor: int
    auc: float
    eer: float
    tar_at_far: Mapping[float, float | None]
    threshold_at_far: Mapping[float, float | None]
    accuracy: float | None
    accuracy_std: float | None
    accuracy_of_folds: tuple[float, ...] | None
    roc: Roc = dataclasses.field(repr=False)

    def title(self) -> str:
        folds = f", in {len(self.accuracy_of_folds)} folds" if self.accuracy_of_folds else ""
        return (
            f"Verification: {self.num_genuine:,} genuine pairs and {self.num_impostor:,} of impostors, of "
            f"{self.num_identities:,} identities{folds}"
        )


def verification(
    embeddings: Matrix,
    labels: Labels,
    *,
    pairs: Matrix | None = None,
    folds: int | ArrayLike | Sequence[int] = 10,
    fars: Sequence[float] = FARS,
    bootstrap: Bootstrap | None = BOOTSTRAP,
    mesh: Mesh | None = None,
) -> Verification:
    """Compares all pairs of embeddings, or given ones, by their cosines.

    Ties are never in one's favour (`jaxnets.recognition.ties`): cosines that differ by less than 1e-6 or so are one
    score, and pairs of one score are accepted or refused together.

    Memory does not grow with the number of pairs, but for given ones.

    Args:
      embeddings: [N, D], of any length.
      labels: [N] integers or strings.
      pairs: [P, 2] indices of embeddings, as a protocol has them; None takes all N·(N − 1)/2.
      folds: of given pairs, how many, each of consecutive pairs as in LFW's protocol; or the fold [P] of each.
      fars: false acceptance rates.
      bootstrap: how intervals are made (`jaxnets.recognition.pair_intervals`): it takes a second pass over all pairs.
        None makes none.
      mesh: devices to share the pairs of a block.

    Raises:
      ValueError: the input does not fit, has numbers that are not finite, or vectors of zeros; there is no genuine
        pair, or none of impostors.
    """
    rows = checked_embeddings("embeddings", embeddings)
    (codes,), _ = checked_labels(("labels", labels, len(rows)))
    checked_rates("false acceptance rates", fars)
    given = None if pairs is None else GivenPairs(rows, codes, pairs, folds)
    counts = counts_by_score(rows, codes, mesh) if given is None else given.counts_by_score()
    _require_both(counts)
    identities = int(codes.max()) + 1 if given is None else given.num_identities
    accuracies = None if given is None else given.accuracies

    roc = Roc.of_counts(*counts)
    num_genuine, num_impostor = (int(of_kind.sum()) for of_kind in counts)
    reasons = {far: why_unstated(far, num_impostor, "pairs of impostors") for far in fars}
    places = {far: roc.place_at(far) for far in fars if not reasons[far]}
    intervals: dict[str, Interval] = {}
    if bootstrap is not None:
        levels = Levels.of(roc, list(places.values()), identities)
        steps = levels.steps()
        by_identity = counts_by_identity(rows, codes, steps, mesh) if given is None else given.counts_by_identity(steps)
        intervals = levels.intervals(by_identity, list(places), bootstrap)
        if given is not None:
            intervals["accuracy"] = given.interval_of_accuracy(bootstrap)
    return Verification(
        num_identities=identities,
        num_genuine=num_genuine,
        num_impostor=num_impostor,
        auc=roc.auc(),
        eer=roc.eer(),
        tar_at_far={far: float(roc.tar[places[far]]) if far in places else None for far in fars},
        threshold_at_far={far: float(roc.thresholds[places[far]]) if far in places else None for far in fars},
        accuracy=None if accuracies is None else float(accuracies.mean()),
        accuracy_std=None if accuracies is None else float(accuracies.std()),
        accuracy_of_folds=None if accuracies is None else tuple(accuracies.tolist()),
        roc=roc,
        intervals=intervals,
        not_stated={f"tar_at_far[{far:g}]": reason for far, reason in reasons.items() if reason},
        confidence=bootstrap.confidence if bootstrap is not None else None,
    )


def _require_both(counts: Counts) -> None:
    if not counts.genuine.any():
        raise ValueError("there is no genuine pair: verification needs two embeddings of one label")
    if not counts.impostor.any():
        raise ValueError("there is no pair of impostors: verification needs embeddings of two labels")
