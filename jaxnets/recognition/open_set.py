"""Open-set identification: probes with a mate in the gallery, told from probes without one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxnets.recognition.intervals import Bootstrap, Interval


class OpenSet:
    """Probes in the order of their nearest template's score, descending."""

    def __init__(
        self,
        is_own: Bool[np.ndarray, "N"],
        scores: Float[np.ndarray, "N"],
        has_mate: Bool[np.ndarray, "N"],
        identities: Int[np.ndarray, "N"],
    ) -> None:
        others = np.flatnonzero(~has_mate)
        others = others[np.argsort(-scores[others], kind="stable")]
        self._other_scores, self._other_identities = scores[others], identities[others]
        # Where a score changes: tied probes are identified together.
        self._last_of_score = np.append(self._other_scores[1:] != self._other_scores[:-1], True)
        own = np.flatnonzero(has_mate & is_own)
        own = own[np.argsort(-scores[own], kind="stable")]
        self._own_scores, self._own_identities = scores[own], identities[own]
        self._mated_identities = identities[has_mate]
        self._num_identities = int(identities.max()) + 1

    def figures(
        self, fpirs: Sequence[float], weights: Float[np.ndarray, "C"] | None = None
    ) -> tuple[Float[np.ndarray, "F"], Float[np.ndarray, "F"]]:
        """The true positive identification rates and thresholds, with a weight for each identity, or 1.

        NaN where the weights leave no probe of either kind.
        """
        if weights is None:
            weights = np.ones(self._num_identities)
        rates, thresholds = np.full(len(fpirs), np.nan), np.full(len(fpirs), np.nan)
        identified = np.cumsum(weights[self._other_identities])
        mated = weights[self._mated_identities].sum()
        if not len(identified) or identified[-1] == 0 or mated == 0:
            return rates, thresholds
        own = np.concatenate([[0.0], np.cumsum(weights[self._own_identities])])
        ends = np.flatnonzero(self._last_of_score)
        for i, fpir in enumerate(fpirs):
            # The threshold is the highest score with which too many would be identified, and takes itself none.
            first = np.searchsorted(identified[ends], fpir * identified[-1] * (1 + 1e-12), side="right")
            thresholds[i] = self._other_scores[ends[first]]
            rates[i] = own[np.searchsorted(-self._own_scores, -thresholds[i], side="left")] / mated
        return rates, thresholds

    def intervals(self, fpirs: Sequence[float], bootstrap: Bootstrap) -> list[Interval]:
        rows = [self.figures(fpirs, row)[0] for rows in bootstrap.weights(self._num_identities) for row in rows]
        return [bootstrap.interval(column) for column in np.array(rows).T]
