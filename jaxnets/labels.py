"""The contract for labels: an integer in [0, C) is a class, −1 is none, and any other is an error.

A row of label −1 counts in no loss, metric or statistic, whatever it holds. An error gives NaN, since inside a compiled
function nothing can be raised; where labels are known, `check` refuses it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kernels.margin_softmax.checks import as_int32


def as_labels(labels: Any) -> Int[Array, "N"]:
    """Converts integers of any width to int32 by clamping; labels out of range stay out of range.

    Raises:
      ValueError: for None, and for anything but an array [N] of integers.
    """
    if labels is None:
        raise ValueError("there are no labels: give one for each row, −1 for a row without a class")
    # NumPy's int64 stays as it is: JAX would cut it to 32 bits before its range is known.
    array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"labels must be integers [N], not {array.dtype} {list(array.shape)}")
    return as_int32(array)  # type: ignore[arg-type]  # of NumPy's too


def is_class(labels: Int[Array, "N"], num_classes: int) -> Bool[Array, "N"]:
    """Which labels are a class."""
    return (labels >= 0) & (labels < num_classes)


def count_of(labels: Int[Array, "N"]) -> Int[Array, ""]:
    """The number of rows whose label is not −1."""
    return (labels != -1).sum(dtype=jnp.int32)


def marked(values: Float[Array, "N"], labels: Int[Array, "N"], num_classes: int) -> Float[Array, "N"]:
    """The values of rows that have a class, 0 for label −1, and NaN for any other label."""
    counted = jnp.where(labels == -1, 0, values)
    is_error = ~is_class(labels, num_classes) & (labels != -1)
    return jnp.where(is_error, np.nan, counted)


def check(labels: Any, num_classes: int) -> None:
    """Refuses labels [N] that are neither a class nor −1; traced labels pass.

    Raises:
      ValueError: naming the first of them.
    """
    if isinstance(labels, jax.core.Tracer):
        return
    known = np.asarray(labels)
    errors = np.flatnonzero((known < -1) | (known >= num_classes))
    if errors.size:
        raise ValueError(
            f"label {known[errors[0]]} of row {errors[0]} is no class: there are {num_classes}, counted from 0, and "
            "−1 marks a row without one"
        )
