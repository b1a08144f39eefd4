"""The definition: XLA's own reduction over windows, differentiated by JAX."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.max_pool.windows import Windows


def max_pool(x: Float[Array, "..."], windows: Windows) -> Float[Array, "..."]:
    """The maximum of each window, padded with −∞; of equal maxima the first in row-major order gets the gradient."""
    size, stride = (tuple(n if axis in "HW" else 1 for axis in windows.layout) for n in (windows.size, windows.stride))
    padding = [(windows.padding,) * 2 if axis in "HW" else (0, 0) for axis in windows.layout]
    return lax.reduce_window(x, -jnp.inf, lax.max, size, stride, padding)
