"""The receiver operating characteristic (ROC) of scores on a grid, and the figures that are read off it."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxnets.recognition.ties import GRID, STEPS


@dataclasses.dataclass(frozen=True, eq=False)
class Roc:
    """The share of pairs whose score reaches each threshold, from the strictest on.

    Attributes:
      thresholds: [P] descending; the first is ∞, the others are the scores that there are.
      far: [P] false acceptance rate, the share of impostor pairs that are accepted: 0 … 1.
      tar: [P] true acceptance rate, the share of genuine pairs that are accepted: 0 … 1.
    """

    thresholds: Float[np.ndarray, "P"]
    far: Float[np.ndarray, "P"]
    tar: Float[np.ndarray, "P"]

    @classmethod
    def of_counts(cls, genuine: Int[np.ndarray, "bins"], impostor: Int[np.ndarray, "bins"]) -> "Roc":
        """Of the numbers of pairs by step of the grid; there must be a pair of either kind."""
        steps = np.flatnonzero(genuine + impostor)[::-1]
        tar, far = (np.cumsum(counts[steps]) / counts.sum() for counts in (genuine, impostor))
        return cls(
            thresholds=np.concatenate([[np.inf], (steps - STEPS) * GRID]),
            far=np.concatenate([[0.0], far]),
            tar=np.concatenate([[0.0], tar]),
        )

    def auc(self) -> float:
        """The area under it: the probability that a genuine pair scores above an impostor pair; a tie counts half."""
        return float(np.sum(np.diff(self.far) * (self.tar[1:] + self.tar[:-1])) / 2)

    def eer(self) -> float:
        """Equal error rate: the false acceptance rate where it is the false refusal rate 1 − TAR, on straight lines."""
        return equal_error_rate(self.far, self.tar)

    def place_at(self, far: float) -> int:
        """The index of the lowest threshold whose false acceptance rate is `far` at most."""
        return int(np.searchsorted(self.far, far, side="right")) - 1


def equal_error_rate(far: Float[np.ndarray, "P"], tar: Float[np.ndarray, "P"]) -> float:
    """Where the line from (0, 1) to (1, 0) cuts the ROC of these ascending rates."""
    return float(np.interp(1.0, far + tar, far))
