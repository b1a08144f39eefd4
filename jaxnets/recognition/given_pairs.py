"""Pairs that a protocol gives, in folds."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Int32

from jaxnets.recognition.blocks.pairs import BINS, Counts
from jaxnets.recognition.blocks.rows import Rows, unit
from jaxnets.recognition.folds import consecutive_folds, right_in_folds
from jaxnets.recognition.inputs import Matrix
from jaxnets.recognition.intervals import Bootstrap, Interval
from jaxnets.recognition.pair_intervals import weighted
from jaxnets.recognition.ties import GRID, STEPS, bins

_AT_ONCE = 2**16  # pairs whose products are computed


class GivenPairs:
    """The scores of P pairs of embeddings, and which of them the folds' thresholds decide right.

    Args:
      rows: [N, D].
      labels: [N], numbers.
      pairs: [P, 2] indices of rows.
      folds: their number, or the fold of each pair.

    Raises:
      ValueError: pairs or folds do not fit.

    Attributes:
      num_identities: labels that a pair has.
      accuracies: of each fold.
    """

    def __init__(
        self,
        rows: Rows,
        labels: Int32[np.ndarray, "N"],
        pairs: Matrix,
        folds: int | ArrayLike | Sequence[int],
    ) -> None:
        given = _checked_pairs(pairs, len(rows))
        fold_of_pair = _checked_folds(folds, len(given))
        present, sides = np.unique(labels[given], return_inverse=True)
        self._sides = sides.reshape(given.shape)
        self._genuine = self._sides[:, 0] == self._sides[:, 1]
        self._steps = _steps_of_pairs(rows, given)
        self.num_identities = len(present)
        self._right, self.accuracies = right_in_folds((self._steps - STEPS) * GRID, self._genuine, fold_of_pair)

    def counts_by_score(self) -> Counts:
        """As `blocks.pairs.counts_by_score`, of these pairs."""
        return Counts(*(np.bincount(self._steps[kind], minlength=BINS) for kind in (self._genuine, ~self._genuine)))

    def counts_by_identity(self, thresholds: Int[np.ndarray, "T"]) -> Counts:
        """As `blocks.pairs.counts_by_identity`, of these pairs."""
        return self._by_identity(np.searchsorted(thresholds, self._steps, side="right"), len(thresholds) + 1)

    def interval_of_accuracy(self, bootstrap: Bootstrap) -> Interval:
        """Of the mean over the folds, whose thresholds stay as they are."""
        kinds = [of_kind.astype(np.float64) for of_kind in self._by_identity(self._right.astype(int), 2)]
        shares = []
        for weights in [np.ones((1, self.num_identities)), *bootstrap.weights(self.num_identities)]:
            genuine, impostor = weighted(weights, *kinds)
            wrong, right = (genuine + impostor).T
            with np.errstate(invalid="ignore"):
                shares.append(right / (wrong + right))
        # Folds that are not of one size weigh pairs otherwise than all at once do.
        return bootstrap.interval(np.concatenate(shares[1:]) + (self.accuracies.mean() - shares[0]))

    def _by_identity(self, level: Int[np.ndarray, "P"], levels: int) -> Counts:
        def counted(sides: Int[np.ndarray, "Q"], at: Int[np.ndarray, "Q"]) -> Int[np.ndarray, "C L"]:
            return np.bincount(sides * levels + at, minlength=self.num_identities * levels).reshape(-1, levels)

        is_impostor = ~self._genuine
        one, other = (counted(side[is_impostor], level[is_impostor]) for side in self._sides.T)
        return Counts(counted(self._sides[self._genuine, 0], level[self._genuine]), one + other)


def _checked_pairs(pairs: Matrix, number: int) -> Int[np.ndarray, "P 2"]:
    given = np.asarray(pairs)
    if given.ndim != 2 or given.shape[1] != 2 or not len(given) or given.dtype.kind not in "iu":
        raise ValueError(f"pairs must be [P, 2] indices; they are {list(given.shape)} {given.dtype}")
    if given.min() < 0 or given.max() >= number:
        raise ValueError(f"pairs must lie in 0..{number - 1}; got {given.min()}..{given.max()}")
    if (given[:, 0] == given[:, 1]).any():
        raise ValueError(f"pair {np.argmax(given[:, 0] == given[:, 1])} is of one embedding with itself")
    return given


def _checked_folds(folds: int | ArrayLike | Sequence[int], pairs: int) -> Int[np.ndarray, "P"]:
    if not isinstance(folds, int):
        folds = np.asarray(folds)
        if folds.shape != (pairs,) or folds.dtype.kind not in "iu":
            raise ValueError(
                f"folds must be an integer for each of {pairs} pairs; they are {list(folds.shape)} {folds.dtype}"
            )
        if (folds == folds[0]).all():
            raise ValueError("all pairs are in one fold: there are no others to choose a threshold by")
        return folds
    if not 2 <= folds <= pairs:
        raise ValueError(f"folds must lie between 2 and the number of pairs, {pairs}; got {folds}")
    return consecutive_folds(pairs, folds)


@jax.jit
def _steps(a: Float[jax.Array, "P D"], b: Float[jax.Array, "P D"]) -> Int32[jax.Array, "P"]:
    return bins(jnp.einsum("pd,pd->p", unit(a), unit(b), precision=jax.lax.Precision.HIGHEST))


def _steps_of_pairs(rows: Rows, pairs: Int[np.ndarray, "P 2"]) -> Int[np.ndarray, "P"]:
    parts = []
    for start in range(0, len(pairs), _AT_ONCE):
        a, b = (np.asarray(rows[part], np.float32) for part in pairs[start : start + _AT_ONCE].T)
        parts.append(np.asarray(_steps(a, b)))
    return np.concatenate(parts)
