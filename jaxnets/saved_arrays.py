"""Arrays as checkpoints keep them: named, cropped, copied, digested; also arrays whose rows lie with several processes.

Of an array that lies with several processes, each of them calls these functions with the same one.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.heads import CLASS_WEIGHTS


def held(tree: Any, num_classes: int | None = None) -> Any:
    """A copy for `save` that training cannot change: on the host; of an array that is split over processes, on devices.

    `num_classes` is as in `save`. Over several processes each of them calls this.
    """

    def copied(path: Any, leaf: Any) -> Any:
        data = as_data(leaf)
        part = cropped(data, num_classes if is_per_class(path_name(path), num_classes) else None)
        if is_elsewhere(part):
            return jnp.copy(part) if part is data else part
        return np.array(part)

    return jax.tree_util.tree_map_with_path(copied, tree)


def as_data(leaf: Any) -> Any:
    """A leaf as it is saved: of a PRNG key, its numbers."""
    if isinstance(leaf, (int, float)):
        return np.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf) if is_abstract(leaf) else jax.random.key_data(leaf)
    return leaf


def is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def cropped(data: Any, rows: int | None) -> Any:
    """The first rows of an array; None takes it as it is."""
    if rows is None or rows >= len(data):
        return data
    # On the host, where that is possible: a device that has a share of the rows would be given all of them.
    return first_rows(data, rows) if is_elsewhere(data) else np.asarray(data)[:rows]


def is_per_class(name: str, num_classes: int | None) -> bool:
    return num_classes is not None and name.rpartition("/")[2] == CLASS_WEIGHTS


def by_name(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def path_name(path: Any) -> str:
    """The same in a tree of NamedTuples and in the dictionaries that are restored of it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def kind(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{np.dtype(dtype).name}{list(shape)}"


def digest_of_array(array: Any, rows: int | None = None) -> str:
    """Of its first rows, or of all."""
    shape = array.shape if rows is None else (min(rows, len(array)), *array.shape[1:])
    digest = hashlib.blake2b(digest_size=16)
    whole = np.asarray(array)
    digest.update(np.ascontiguousarray(whole if rows is None else whole[:rows]).reshape(-1).view(np.uint8).data)
    return f"{kind(shape, array.dtype)} {digest.hexdigest()}"


def is_elsewhere(array: object) -> bool:
    """Whether another process has a part of the array that this one does not have."""
    return isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated)


def on_host(array: jax.Array) -> np.ndarray:
    """The whole array, in every process, wherever its parts lie."""
    if not is_elsewhere(array):
        return np.asarray(array)
    whole: np.ndarray = multihost_utils.process_allgather(array, tiled=True)
    return whole


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
