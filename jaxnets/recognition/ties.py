"""When two scores are tied, and for whom: never for the embeddings that are judged.

A score is a cosine, rounded to a multiple of 2⁻²⁰ ≈ 1e-6: a float32 product of unit vectors is no more precise, and
the order of additions decides between closer ones. Scores that round to the same number are tied.

- In a ranking, non-matches come before matches. A network that gives one embedding for everything has no
  match at any rank that a non-match can take.
- Under a threshold, tied scores are accepted or refused together, and a threshold serves a rate of false acceptances
  only if all scores tied with it are within that rate. One embedding for everything: the ROC is the diagonal,
  AUC and equal error rate are 1/2, and no one is accepted at any rate below 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

GRID = 2.0**-20
STEPS = 2**20  # from a score of 0 to one of 1


def rounded(scores: Float[jax.Array, "*S"]) -> Float[jax.Array, "*S"]:
    """Scores on the grid; exact in float32."""
    return jnp.round(scores * STEPS) * GRID


def ranked(scores: Float[jax.Array, "*S"], matches: Bool[jax.Array, "*S"]) -> Float[jax.Array, "*S"]:
    """Keys whose descending order is the ranking: rounded scores, half a step higher where there is no match."""
    return rounded(scores) + jnp.where(matches, 0, GRID / 2).astype(jnp.float32)


def scores_of(keys: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """The rounded scores in the keys that `ranked` makes."""
    return np.floor(keys.astype(np.float64) * STEPS) * GRID


def bins(scores: Float[jax.Array, "*S"]) -> Int32[jax.Array, "*S"]:
    """The step of the grid, counted from a score of −1: 0 … 2²¹."""
    return jnp.clip(jnp.round(scores * STEPS), -STEPS, STEPS).astype(jnp.int32) + STEPS
