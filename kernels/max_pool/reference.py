"""The definition: every value of a window is looked at, and JAX differentiates the choice of one."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from kernels.max_pool.windows import Windows, first_inside, lowest, pixels


def max_pool(x: Shaped[Array, "..."], windows: Windows) -> Shaped[Array, "..."]:
    """The maximum of each window. The first of equal maxima in the image gets the gradient, or the last NaN."""
    seen = jnp.stack(pixels(x, windows))
    largest = seen.max(0)
    is_nan = seen != seen
    last_nan = len(seen) - 1 - jnp.argmax(is_nan[::-1], 0)
    first = jnp.argmax(seen == largest[None], 0)
    first = jnp.where(largest == lowest(x.dtype), first_inside(x, windows).astype(first.dtype), first)
    place = jnp.where(is_nan.any(0), last_nan, first)
    return jnp.take_along_axis(seen, place[None], 0)[0]
