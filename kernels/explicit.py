"""Meshes whose axes are Explicit, as `jax.make_mesh` makes them: there an array's type says how it is split.

Reshapes that merge a split batch with other axes have no type there, and XLA, left to choose, would often give every
device the whole batch. An operation on images needs neither: each device takes its own images.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


def by_device(
    operation: Callable[..., Any],
    layout: str,
    images: Shaped[Array, "..."],
    *parameters: Shaped[Array, "..."] | None,
    statistics: int = 0,
) -> Any:
    """`operation((), images, *parameters)`; where the batch is split over Explicit axes, on each device's own images.

    There its first argument has the names of these axes, which are manual inside. The result is images, or a tuple of
    images and as many `statistics`, equal on all devices; the result's batch is split as the batch of `images`.
    """
    sharding = jax.typeof(images).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return operation((), images, *parameters)
    batch = sharding.spec[layout.index("N")]
    split = PartitionSpec(*(batch if axis == "N" else None for axis in layout))
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    images = jax.sharding.reshard(images, NamedSharding(sharding.mesh, split))
    placed = [None if array is None else jax.sharding.reshard(array, whole) for array in parameters]
    axes = () if batch is None else batch if isinstance(batch, tuple) else (batch,)
    if not axes:
        return operation((), images, *placed)
    mapped = jax.shard_map(
        lambda *arrays: operation(axes, *arrays),
        mesh=sharding.mesh,
        in_specs=(split, *[PartitionSpec()] * len(parameters)),
        out_specs=(split, *[PartitionSpec()] * statistics) if statistics else split,
        axis_names=set(axes),
    )
    return mapped(images, *placed)
