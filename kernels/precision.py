"""The dtype that sums are made in."""

from typing import Any

import jax.numpy as jnp


def wide(*dtypes: Any) -> Any:
    """float64 if one of these dtypes is that, else float32.

    >>> wide(jnp.dtype("bfloat16"), jnp.dtype("float16")).__name__
    'float32'
    """
    return jnp.float64 if jnp.float64 in dtypes else jnp.float32
