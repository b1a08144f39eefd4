"""The accuracy of given pairs in folds, each with the threshold that is best for the others.

G. Huang, M. Ramesh, T. Berg, E. Learned-Miller, Labeled Faces in the Wild, 2007, section on "view 2".
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def consecutive_folds(pairs: int, folds: int) -> Int[np.ndarray, "P"]:
    """The fold of each pair: folds of consecutive pairs; where they cannot be equal, the first have one more."""
    sizes = np.full(folds, pairs // folds) + (np.arange(folds) < pairs % folds)
    return np.repeat(np.arange(folds), sizes)


def best_threshold(scores: Float[np.ndarray, "P"], genuine: Bool[np.ndarray, "P"]) -> float:
    """The threshold that decides most pairs right, half-way between two scores; the strictest of several.

    ∞ where it is best to accept none.
    """
    distinct, place = np.unique(-scores, return_inverse=True)  # descending scores
    gained = np.bincount(place, np.where(genuine, 1, -1), len(distinct))
    best = int(np.argmax(np.concatenate([[0.0], np.cumsum(gained)])))
    if best == 0:
        return np.inf
    below = -distinct[best] if best < len(distinct) else -1.0
    return float(below - distinct[best - 1]) / 2


def right_in_folds(
    scores: Float[np.ndarray, "P"], genuine: Bool[np.ndarray, "P"], folds: Int[np.ndarray, "P"]
) -> tuple[Bool[np.ndarray, "P"], Float[np.ndarray, "F"]]:
    """Of each pair, whether its fold's threshold decides it right; and the F folds' shares of such pairs."""
    right = np.zeros(len(scores), bool)
    shares = []
    for fold in np.unique(folds):
        here = folds == fold
        threshold = best_threshold(scores[~here], genuine[~here])
        right[here] = (scores[here] >= threshold) == genuine[here]
        shares.append(right[here].mean())
    return right, np.array(shares)
