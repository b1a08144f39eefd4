"""Arrays whose rows lie with several processes: cropped, and read block by block, so that no process has all of them.

Every process calls these functions with the same array.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BLOCK = 2**26  # bytes of rows that each process holds at once


def in_one_process(act: Callable[[], None]) -> None:
    """`act()` in the first process, while the others wait."""
    if jax.process_index() == 0:
        act()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxnets")


def is_elsewhere(array: object) -> bool:
    """Whether another process has a part of the array that this one does not have."""
    return isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated)


def first_rows(array: jax.Array, count: int) -> jax.Array:
    """`array[:count]` of an array that is split by rows over a mesh: split by its last axis instead, if that divides.

    Over that many rows there may be no equal split, and none other can be made.
    """
    sharding = array.sharding
    assert isinstance(sharding, NamedSharding)
    mesh = Mesh(sharding.mesh.devices, sharding.mesh.axis_names)  # type: ignore[union-attr]  # of Auto axes
    same = jax.make_array_from_single_device_arrays(
        array.shape, NamedSharding(mesh, sharding.spec), [shard.data for shard in array.addressable_shards]
    )
    columns = P() if array.shape[-1] % mesh.size else P(*[None] * (array.ndim - 1), mesh.axis_names)

    def cropped(rows: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, columns))[:count]

    return jax.jit(cropped, out_shardings=NamedSharding(mesh, columns))(same)


def blocks_of_rows(array: jax.Array, count: int) -> Iterator[np.ndarray]:
    """`array[:count]` in order, as bytes, some rows at a time; of an array that is split otherwise, all at once."""
    layout: Mapping[Any, tuple[slice, ...]] = array.sharding.devices_indices_map(array.shape)
    places: dict[int, tuple[int, int]] = {}  # by the first of a device's rows: the end, and the process to pass them on
    for device, (rows, *rest) in layout.items():
        if any(part.indices(size) != (0, size, 1) for part, size in zip(rest, array.shape[1:], strict=True)):
            yield _as_bytes(np.asarray(multihost_utils.process_allgather(array, tiled=True)[:count]))
            return
        first, end, _ = rows.indices(len(array))
        owner = places.get(first, (end, device.process_index))[1]
        places[first] = end, min(owner, device.process_index)
    here = {shard.index[0].indices(len(array))[0]: shard.data for shard in array.addressable_shards}
    bytes_per_row = array.nbytes // len(array)
    at_once = max(1, BLOCK // bytes_per_row)
    for first, (end, owner) in sorted(places.items()):
        is_owner = jax.process_index() == owner
        for start in range(first, min(end, count), at_once):
            stop = min(start + at_once, end, count)
            if is_owner:
                block = _as_bytes(np.asarray(here[first][start - first : stop - first]))
            else:
                block = np.zeros((stop - start) * bytes_per_row, np.uint8)
            # As bytes, since the sum by which they are passed on takes the sign off a zero.
            yield np.asarray(multihost_utils.broadcast_one_to_all(block, is_source=is_owner))


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
