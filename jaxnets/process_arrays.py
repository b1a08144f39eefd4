"""Arrays whose rows lie with several processes, and what one of these does for all.

Every process calls these functions with the same array.
"""

from collections.abc import Callable

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


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
