"""The definition: every value of a window is looked at, and JAX differentiates the choice of one."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from kernels.max_pool.windows import Windows, inside, pixels


def max_pool(x: Shaped[Array, "..."], windows: Windows) -> Shaped[Array, "..."]:
    """The maximum of each window. The first of equal maxima in row-major order gets the gradient; the last NaN does."""
    seen = jnp.stack(pixels(x, windows))
    largest = seen.max(0)
    is_nan = seen != seen
    is_best = jnp.stack(inside(x, windows)) & (is_nan | (seen == largest[None]))
    last_nan = len(seen) - 1 - jnp.argmax(is_nan[::-1], 0)
    place = jnp.where(is_nan.any(0), last_nan, jnp.argmax(is_best, 0))
    return jnp.take_along_axis(seen, place[None], 0)[0]
