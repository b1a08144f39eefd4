"""Confidence intervals of figures of pairs, by the bootstrap over identities.

An identity that is drawn w times has weight w, and gives it to its genuine pairs. A pair of impostors would have
the product w_a·w_b. It has the first order of that around 1, w_a + w_b − 1: then one sum for each identity, over its
own pairs, is enough, and memory does not grow with the number of pairs. (The first order is the Hoeffding projection
of a U-statistic, whose variance equals the statistic's up to terms in 1/C.)
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxnets.recognition.blocks.pairs import Counts
from jaxnets.recognition.intervals import Bootstrap, Interval
from jaxnets.recognition.roc import Roc, equal_error_rate
from jaxnets.recognition.ties import STEPS

_CELLS = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """A few of a ROC's thresholds, between which lines are straight: of its figures, and at every eighth of a decade.

    Attributes:
      roc: the whole of it.
      places: [T] of the thresholds in it, ascending.
    """

    roc: Roc
    places: Int[np.ndarray, "T"]

    @classmethod
    def of(cls, roc: Roc, places: Sequence[int], identities: int) -> "Levels":
        """With these `places`. Many identities, each of which counts its pairs by level, get fewer levels."""
        per_decade = min(max(_CELLS // identities, 2), 8)
        smallest = roc.far[roc.far > 0].min()
        fars = 10 ** np.arange(math.log10(smallest), 0, 1 / per_decade)
        at_fars = np.searchsorted(roc.far, fars, side="right") - 1
        at_tars = np.searchsorted(roc.tar, np.linspace(0, 1, 4 * per_decade, endpoint=False))
        chosen = np.unique(np.concatenate([places, at_fars, at_tars]).astype(int))
        return cls(roc, chosen[chosen > 0])

    def steps(self) -> Int[np.ndarray, "T"]:
        """The thresholds as steps of the grid, ascending."""
        return np.round(self.roc.thresholds[self.places[::-1]] * STEPS).astype(int) + STEPS

    def intervals(self, counts: Counts, fars: Sequence[float], bootstrap: Bootstrap) -> dict[str, Interval]:
        """Of "auc", "eer" and "tar_at_far[…]".

        Args:
          counts: [C, T + 1] each, by the number of thresholds reached.
          fars: at which the true acceptance rate is stated.
          bootstrap: how.
        """
        accepted = [np.cumsum(of_kind[:, ::-1], axis=1).astype(np.float64) for of_kind in counts]
        reached = [self.roc.far[self.roc.place_at(far)] for far in fars]
        everyone = np.ones((1, len(counts.genuine)))
        rough = _figures(_rates(everyone, *accepted), reached)[0]
        # The part of the whole ROC that straight lines miss is added to each resample.
        missed = np.array([self.roc.auc(), self.roc.eer()]) - rough[:2]
        rows = np.concatenate(
            [_figures(_rates(weights, *accepted), reached) for weights in bootstrap.weights(len(counts.genuine))]
        )
        rows[:, :2] += missed
        names = ["auc", "eer", *[f"tar_at_far[{far:g}]" for far in fars]]
        return {name: bootstrap.interval(column) for name, column in zip(names, rows.T, strict=True)}


def weighted(
    weights: Float[np.ndarray, "R C"], genuine: Float[np.ndarray, "C L"], impostor: Float[np.ndarray, "C L"]
) -> tuple[Float[np.ndarray, "R L"], Float[np.ndarray, "R L"]]:
    """Sums over genuine pairs and over pairs of impostors, of sums over each identity's."""
    return weights @ genuine, np.maximum(weights @ impostor - impostor.sum(axis=0) / 2, 0)


def _rates(
    weights: Float[np.ndarray, "R C"], genuine: Float[np.ndarray, "C L"], impostor: Float[np.ndarray, "C L"]
) -> tuple[Float[np.ndarray, "R P"], Float[np.ndarray, "R P"]]:
    """FAR and TAR in each resample, from the strictest threshold on; NaN where a resample has no such pair."""
    rates = []
    for accepted in weighted(weights, genuine, impostor):
        accepted = np.maximum.accumulate(accepted, axis=1)
        with np.errstate(invalid="ignore"):
            rates.append(np.concatenate([np.zeros((len(accepted), 1)), accepted / accepted[:, -1:]], axis=1))
    tar, far = rates
    return far, tar


def _figures(
    rates: tuple[Float[np.ndarray, "R P"], Float[np.ndarray, "R P"]], fars: Sequence[float]
) -> Float[np.ndarray, "R F"]:
    far, tar = rates
    auc = (np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1])).sum(axis=1) / 2
    rest = [[equal_error_rate(f, t), *np.interp(fars, f, t)] for f, t in zip(far, tar, strict=True)]
    found = np.concatenate([auc[:, None], rest], axis=1)
    return np.where(np.isnan(auc)[:, None], np.nan, found)
