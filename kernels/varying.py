"""What `jax.shard_map` asks of an operation with a gradient or a loop of its own: arrays that vary alike."""

from typing import Any

import jax
from jax import lax
from jaxtyping import Array


def vary_alike(*arrays: Any) -> list[Any]:
    """Under shard_map, gives every array the mesh axes that any of them varies over; None stays None.

    A custom_vjp must return gradients that vary as its inputs do. Parameters shared by all shards would break that:
    cast to varying here, their gradients are summed over the shards by the cast's own transpose.
    """
    everywhere = frozenset[str]().union(*(varying_axes(array) for array in arrays if array is not None))
    return [None if array is None else _vary(array, everywhere) for array in arrays]


def varying_like(array: Array, other: Array) -> Array:
    """Under shard_map, gives `array` the mesh axes that `other` varies over: a loop's carry must vary as its result."""
    return _vary(array, varying_axes(other))


def varying_axes(array: Array) -> frozenset[str]:
    """The mesh axes whose devices may hold different values of it; none where shard_map does not check."""
    return jax.typeof(array).manual_axis_type.varying


def _vary(array: Array, axes: frozenset[str]) -> Array:
    missing = tuple(axes - varying_axes(array))
    return lax.pcast(array, missing, to="varying") if missing else array
