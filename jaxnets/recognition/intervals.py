"""Confidence intervals by the bootstrap over identities.

Two pictures of one person, or two pairs with one person in both, are no two observations. So the identities are
drawn again, with replacement, each with all of its examples. (B. Efron, R. Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13: percentile intervals.)
"""

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Interval: TypeAlias = tuple[float, float]

_WEIGHTS = 2**22  # drawn at once


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
      resamples: how often the identities are drawn again.
      confidence: the share of resamples that an interval spans; half of the others lie on either side.
      seed: of the drawing.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.confidence < 1 or self.seed < 0:
            raise ValueError(
                f"a bootstrap needs a resample or more, a confidence between 0 and 1, a seed of 0 or more; got {self}"
            )

    def weights(self, identities: int) -> Iterator[Float[np.ndarray, "R C"]]:
        """How often each of C identities was drawn, in all resamples, some at a time."""
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _WEIGHTS // identities)
        for start in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - start)
            drawn = generator.integers(identities, size=(rows, identities)) + identities * np.arange(rows)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=rows * identities)
            yield counts.reshape(rows, identities).astype(np.float64)

    def interval(self, resampled: Float[np.ndarray, "R"]) -> Interval:
        """The percentile interval of a figure, of its values in the resamples; without one where they are NaN."""
        known = resampled[~np.isnan(resampled)]
        if not len(known):
            return (np.nan, np.nan)
        low, high = np.quantile(known, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return (float(low), float(high))

    def means(self, sums: Float[np.ndarray, "C F"], counts: Float[np.ndarray, "C"]) -> list[Interval]:
        """Intervals of F means over examples, of each identity's sums and its number of examples."""
        with np.errstate(invalid="ignore"):
            parts = [weights @ sums / (weights @ counts)[:, None] for weights in self.weights(len(counts))]
        return [self.interval(column) for column in np.concatenate(parts).T]


BOOTSTRAP = Bootstrap()
