"""Directions, and the angle between two of them, computed where √(1 − cos²θ) cannot be."""

import jax.numpy as jnp
from jaxtyping import Array, Float

SHORTEST = 1e-12  # the length below which a vector has no direction; PyTorch's `normalize` has the same


def directions(vectors: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Unit vectors [N, D]; NaN stays NaN. One shorter than 1e-12 has no direction: it gives zeros, and no gradient."""
    squares = jnp.sum(vectors**2, axis=1, keepdims=True)
    too_short = squares <= SHORTEST**2
    return jnp.where(too_short, 0, vectors / jnp.sqrt(jnp.where(too_short, 1, squares)))


def cos_sin(a: Float[Array, "N D"], b: Float[Array, "N D"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """The cosine and sine, [N] each, of the angle θ in [0, π] between unit vectors, pair by pair.

    sin θ = ½‖a − b‖‖a + b‖ keeps its relative precision at both ends, where √(1 − cos²θ) loses it, and its gradient is
    finite there: the two lengths vanish as the sine does. At θ = 0 and θ = π themselves the sine has a corner, and the
    gradient is zero, the mean over all directions.
    """
    return jnp.sum(a * b, axis=1), _length(a - b) * _length(a + b) / 2


def _length(vectors: Float[Array, "N D"]) -> Float[Array, "N"]:
    squares = jnp.sum(vectors**2, axis=1)
    vanishes = squares == 0
    return jnp.where(vanishes, 0, jnp.sqrt(jnp.where(vanishes, 1, squares)))
