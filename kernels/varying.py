"""Makes arrays vary alike, as `jax.shard_map` demands of an operation with a gradient or a loop of its own."""

from collections.abc import Collection
from typing import Any, TypeAlias

import jax
from jax import lax
from jaxtyping import Array

Axes: TypeAlias = str | tuple[str, ...]  # of a mesh; the first of several changes slowest, as in a PartitionSpec


def names_of(axis_name: Axes) -> tuple[str, ...]:
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def vary_alike(*arrays: Any) -> list[Any]:
    """Under shard_map, gives every array the mesh axes that any of them varies over; None stays None.

    A custom_vjp must return gradients that vary as its inputs do. Parameters shared by all shards would break that:
    cast to varying here, their gradients are summed over the shards by the cast's own transpose.
    """
    everywhere = frozenset[str]().union(*(varying_axes(array) for array in arrays if array is not None))
    return [None if array is None else vary_over(array, everywhere) for array in arrays]


def varying_like(array: Array, other: Array) -> Array:
    """Under shard_map, gives `array` the mesh axes that `other` varies over: a loop's carry must vary as its result."""
    return vary_over(array, varying_axes(other))


def varying_axes(array: Array) -> frozenset[str]:
    """The mesh axes whose devices may hold different values of it; none where shard_map does not check."""
    return jax.typeof(array).manual_axis_type.varying


def vary_over(array: Array, axes: Collection[str]) -> Array:
    """Gives `array` these mesh axes too."""
    missing = tuple(axis for axis in axes if axis not in varying_axes(array))
    return lax.pcast(array, missing, to="varying") if missing else array
