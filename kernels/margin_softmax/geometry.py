"""Directions, and the angles between them, computed where √(1 − cos²θ) cannot be."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from kernels.precision import wide as wide

SHORTEST = 1e-12  # the length below which a vector has no direction; PyTorch's `normalize` has the same


def directions(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Unit vectors [..., D]; NaN stays NaN. One shorter than 1e-12 has no direction: zeros, and no gradient."""
    squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
    too_short = squares <= SHORTEST**2
    return jnp.where(too_short, 0, vectors / jnp.sqrt(jnp.where(too_short, 1, squares)))


def inverse_lengths(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """1/‖v‖ in float32 at least; 0 for a vector too short to have a direction."""
    squares = jnp.sum(jnp.square(vectors.astype(wide(vectors.dtype))), axis=-1)
    too_short = squares <= SHORTEST**2
    return jnp.where(too_short, 0, lax.rsqrt(jnp.where(too_short, 1, squares)))


def without_radial(gradient: Array, vectors: Array, inverse: Array) -> Array:
    """Less the part along the vectors [..., D], of inverse lengths [...]: a direction does not change that way."""
    unit = vectors * inverse[..., None]
    return gradient - (gradient * unit).sum(axis=-1, keepdims=True) * unit


def cosines(x: Float[Array, "N D"], w: Float[Array, "C D"] | Float[Array, "C K D"]) -> Float[Array, "N C"]:
    """cos θ_ij = x̂_i·ŵ_j of unit vectors; of a class with K sub-centres, the cosine to the nearest, max_k x̂_i·ŵ_jk.

    Where several are equally near it is the first one, which has the gradient alone.
    """
    if w.ndim == 2:
        return jnp.matmul(x, w.T, precision=lax.Precision.HIGHEST)
    to_each = jnp.einsum("nd,ckd->nck", x, w, precision=lax.Precision.HIGHEST)
    return jnp.take_along_axis(to_each, to_each.argmax(axis=2, keepdims=True), axis=2)[:, :, 0]


def target_cos_sin(
    x: Float[Array, "N D"], w: Float[Array, "C D"] | Float[Array, "C K D"], labels: Int[Array, "N"]
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """`cos_sin` of each unit vector and its own class, at the nearest of its sub-centres where there are some.

    A label out of range is taken for the nearest class there is: what comes of its row is not to be used.
    """
    own = jnp.take(w, labels, axis=0, mode="clip")
    if own.ndim == 3:
        nearest = jnp.einsum("nd,nkd->nk", x, own, precision=lax.Precision.HIGHEST).argmax(axis=1)
        own = jnp.take_along_axis(own, nearest[:, None, None], axis=1)[:, 0]
    return cos_sin(x, own)


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
