"""Directions, and the angles between them, computed where √(1 − cos²θ) cannot be."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from kernels.precision import wide as wide

# Of class weights: the squares of these lengths, and of their inverses, are normal numbers in float32.
SHORTEST, LONGEST = 1e-18, 1e18
SUMMED = 1e-13  # of a vector of this length or more, no elements matter whose squares are subnormal


def directions(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Unit vectors [..., D] of vectors of any length; NaN stays NaN. A zero vector stays zero and gets no gradient."""
    return normalised(of_moderate_length(vectors))


def normalised(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """`directions` of vectors whose squares fit in their dtype."""
    squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
    is_zero = squares == 0
    return jnp.where(is_zero, 0, vectors / jnp.sqrt(jnp.where(is_zero, 1, squares)))


def of_moderate_length(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Each vector times a power of two, so that its largest element is in [1, 4) and its squares fit in float32.

    The product is exact, and to differentiation a product with a constant. A processor may take subnormal numbers for
    zero, so their bits are read as integers.
    """
    kind = jnp.finfo(vectors.dtype)
    integer = jnp.dtype(f"int{kind.bits}")
    bits = lax.bitcast_convert_type(lax.stop_gradient(vectors), integer)
    magnitudes = bits & jnp.iinfo(integer).max
    exponents = magnitudes.max(axis=-1, keepdims=True) >> kind.nmant
    of_one = kind.maxexp - 1  # the exponent's bits in 1.0
    power = lax.bitcast_convert_type(jnp.clip(2 * of_one - exponents, 1, 2 * of_one) << kind.nmant, vectors.dtype)
    scaled = vectors * power
    # A subnormal number is its integer times 2^(2 − maxexp − nmant), which is subnormal itself: in two factors.
    subnormal = (magnitudes.astype(vectors.dtype) * 2.0**-kind.nmant) * (power * 2.0 ** (2 - kind.maxexp))
    exact = jnp.where(magnitudes >> kind.nmant == 0, jnp.where(bits < 0, -subnormal, subnormal), scaled)
    return scaled + lax.stop_gradient(exact - scaled)


def directions_by_division(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """As `directions`, rounded once more, by operations that formats for inference have: no bits are read."""
    largest = jnp.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / jnp.where(largest == 0, 1, largest)
    squares = jnp.sum(scaled**2, axis=-1, keepdims=True)
    return scaled / jnp.sqrt(jnp.where(largest == 0, 1, squares))


def inverse_lengths(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """1/‖v‖ in float32 at least, of vectors whose squares it holds; 0 for a zero vector."""
    return _inverse_roots(_squares(vectors))


def inverse_lengths_in_range(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """`inverse_lengths`, but NaN for a length other than 0 outside of 1e-18 … 1e18."""
    squares = _squares(vectors)
    fits = (squares >= SUMMED**2) & (squares <= LONGEST**2)

    def some_do_not_fit() -> Array:
        larger = _squares(vectors.astype(squares.dtype) * 2.0**64)
        is_short = (squares < SUMMED**2) & (larger >= (SHORTEST * 2.0**64) ** 2)
        inverse = jnp.where(is_short, _inverse_roots(larger) * 2.0**64, jnp.nan)
        return jnp.where(fits, _inverse_roots(squares), jnp.where(_is_zero(vectors), 0, inverse))

    return lax.cond(fits.all(), lambda: _inverse_roots(squares), some_do_not_fit)


def _is_zero(vectors: Float[Array, "*batch D"]) -> Bool[Array, "*batch"]:
    """By their bits, as a processor may take subnormal numbers for zero; few at once, as XLA does not fuse this."""
    integer = jnp.dtype(f"int{jnp.finfo(vectors.dtype).bits}")
    flat = vectors.reshape(-1, vectors.shape[-1])
    size = min(1024, len(flat))

    def of_block(first: Int[Array, ""]) -> Bool[Array, "size"]:
        block = lax.dynamic_slice_in_dim(flat, first, size)
        return (lax.bitcast_convert_type(block, integer) & jnp.iinfo(integer).max).max(axis=1) == 0

    last = len(flat) - size  # where the last block begins, which may overlap with the one before
    starts = jnp.arange(0, len(flat), size, dtype=jnp.int32)
    found = lax.map(of_block, jnp.minimum(starts, last))
    of_last = found[-1, size * len(starts) - len(flat) :]
    return jnp.concatenate([found[:-1].reshape(-1), of_last]).reshape(vectors.shape[:-1])


def _squares(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    return jnp.sum(jnp.square(vectors.astype(wide(vectors.dtype))), axis=-1)


def _inverse_roots(squares: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    is_zero = squares == 0
    return jnp.where(is_zero, 0, lax.rsqrt(jnp.where(is_zero, 1, squares)))


def without_radial(
    gradient: Float[Array, "*batch D"], vectors: Float[Array, "*batch D"], inverse: Float[Array, "*batch"]
) -> Float[Array, "*batch D"]:
    """The gradient less its part along the vectors, of these inverse lengths: that does not change their directions."""
    unit = vectors * inverse[..., None]
    return gradient - (gradient * unit).sum(axis=-1, keepdims=True) * unit


def cosines(x: Float[Array, "N D"], w: Float[Array, "C D"] | Float[Array, "C K D"]) -> Float[Array, "N C"]:
    """cos θ_ij = x̂_i·ŵ_j of unit vectors; with K sub-centres a class, max_k x̂_i·ŵ_jk, the cosine to the nearest.

    Of equally near sub-centres the first one counts, and gets all of the gradient.
    """
    if w.ndim == 2:
        return jnp.matmul(x, w.T, precision=lax.Precision.HIGHEST)
    to_each = jnp.einsum("nd,ckd->nck", x, w, precision=lax.Precision.HIGHEST)
    return jnp.take_along_axis(to_each, to_each.argmax(axis=2, keepdims=True), axis=2)[:, :, 0]


def target_cos_sin(
    x: Float[Array, "N D"], w: Float[Array, "C D"] | Float[Array, "C K D"], labels: Int[Array, "N"]
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """`cos_sin` of each unit vector and its own class, at the nearest of its sub-centres where there are some.

    A label out of range selects the nearest class in range: the result of its row is not to be used.
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
    gradient is zero, the mean over all directions. A zero vector is at θ = π/2 from all others, without a gradient.
    """
    has_angle = jnp.any(a != 0, axis=1) & jnp.any(b != 0, axis=1)
    return jnp.sum(a * b, axis=1), jnp.where(has_angle, _length(a - b) * _length(a + b) / 2, 1)


def _length(vectors: Float[Array, "N D"]) -> Float[Array, "N"]:
    squares = jnp.sum(vectors**2, axis=1)
    vanishes = squares == 0
    return jnp.where(vanishes, 0, jnp.sqrt(jnp.where(vanishes, 1, squares)))
