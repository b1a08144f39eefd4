"""Devices and processes: the only file that names them."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxnets.data import Dataset, Split
from jaxnets.data.streaming import Share
from jaxnets.epochs import take_batch, take_steps
from jaxnets.sharded_head import ShardedMarginHead
from kernels.platform import jit_with, quick_compilation

AXIS = "data"
_ROOM_ON_CPU = 2**30  # bytes; a CPU's memory is the host's, where a set that is mapped already needs no copy


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of one axis, "data", over the first `num_devices` devices of each process; None takes all.

    Raises:
      ValueError: where this machine has fewer.
    """
    devices = jax.local_devices()
    if num_devices is not None and not 1 <= num_devices <= len(devices):
        kind = devices[0].platform
        way_out = "; XLA_FLAGS=--xla_force_host_platform_device_count=N makes virtual ones" if kind == "cpu" else ""
        raise ValueError(f"{num_devices} devices were asked for, and this machine has {len(devices)} ({kind}){way_out}")
    of_each = (jax.local_devices(process) for process in range(jax.process_count()))
    return Mesh(np.array([device for some in of_each for device in some[:num_devices]]), (AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every array on each device of the mesh, which may span several processes.

    Each of these gives the same arrays: on its own devices, on the host, or replicated already.
    """
    everywhere = NamedSharding(mesh, P())
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)

    def copied(leaf: Any) -> Array:
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(copied(jax.random.key_data(leaf)), impl=leaf.dtype)
        data = np.asarray(leaf, jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype))
        return jax.make_array_from_callback(data.shape, everywhere, lambda index: data[index])

    return jax.tree.map(copied, tree)


def share_of_process(mesh: Mesh) -> Share | None:
    """The part of each batch that this process reads, if the mesh spans several: the rows of its own devices.

    Of a batch that does not divide by the devices, which each of them computes whole, each process reads all.
    """
    by_rows = NamedSharding(mesh, P(AXIS))
    if by_rows.is_fully_addressable:
        return None
    everywhere = NamedSharding(mesh, P())
    before = sum(device.process_index < jax.process_index() for device in mesh.devices.flat)
    here = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)

    def rows(size: int) -> slice:
        each, rest = divmod(size, mesh.size)
        return slice(0, size) if rest else slice(before * each, (before + here) * each)

    def whole(batch: Split, size: int) -> Split:
        sharding = everywhere if size % mesh.size else by_rows
        return jax.tree.map(
            lambda part: jax.make_array_from_process_local_data(sharding, part, (size, *part.shape[1:])), batch
        )

    return Share(rows, whole)


def room_for_data(mesh: Mesh) -> int:
    """The bytes that a data set may take on each device: half of the memory; on a CPU 1 GiB."""
    rooms = []
    for device in mesh.devices.flat:
        limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
        rooms.append(_ROOM_ON_CPU if limit is None else limit // 2)
    return min(rooms)


def place(dataset: Dataset, mesh: Mesh) -> Dataset:
    """The data set copied to each device of the mesh if it fits there (`room_for_data`); otherwise as it is."""
    if dataset.nbytes > room_for_data(mesh):
        return dataset
    train, test = replicate((dataset.train, dataset.test), mesh)
    return dataclasses.replace(dataset, train=train, test=test)


def sharded_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`jaxnets.train_step` over a mesh: jitted, the state replicated, the batch split over the devices.

    The result is the step on the whole batch. It raises ValueError for a batch that does not divide by the devices. A
    state with a `ShardedMarginHead` is split over that head's mesh instead, here and in the next functions.
    """
    local = partial(step, axis_name=AXIS)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=(P(), P()))

    def whole(state: Any, batch: Any) -> Any:
        if isinstance(state.head, ShardedMarginHead):
            return step(state, batch)
        sizes = {len(leaf) for leaf in jax.tree.leaves(batch)}
        if any(size % mesh.size for size in sizes):
            raise ValueError(f"a batch of {max(sizes)} does not divide by {mesh.size} devices")
        return sharded(state, _split(batch, P(AXIS), mesh))

    return jit_with(quick_compilation(), whole)


def sharded_take_steps(mesh: Mesh) -> Callable[..., Any]:
    """`jaxnets.epochs.take_steps` over a mesh: all arguments replicated, each device takes its share of each batch.

    A batch that does not divide by the devices, such as the last one of an epoch, is computed whole by each of them.
    """

    def take(state: Any, totals: Any, split: Any, order: Any, start: Any, *, batch_size: int, steps: int) -> Any:
        local = partial(take_steps, batch_size=batch_size, steps=steps)
        if isinstance(state.head, ShardedMarginHead):
            return local(state, totals, split, order, start)
        local = partial(local, axis_name=AXIS if batch_size % mesh.size == 0 else None)
        return jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P())(state, totals, split, order, start)

    return jit_with(quick_compilation(), take, static_argnames=("batch_size", "steps"), donate_argnums=(0, 1))


def sharded_take_batch(mesh: Mesh) -> Callable[..., Any]:
    """`jaxnets.epochs.take_batch` over a mesh: state and totals replicated, the batch split over the devices.

    A batch that does not divide by the devices is computed whole by each of them.
    """

    def take(state: Any, totals: Any, batch: Any) -> Any:
        if isinstance(state.head, ShardedMarginHead):
            return take_batch(state, totals, batch)
        axis_name = AXIS if len(batch.labels) % mesh.size == 0 else None
        rows, local = P(axis_name), partial(take_batch, axis_name=axis_name)
        mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), rows), out_specs=P())
        return mapped(state, totals, _split(batch, rows, mesh))

    return jit_with(quick_compilation(), take, donate_argnums=(0, 1))


def _split(batch: Any, rows: P, mesh: Mesh) -> Any:
    """The batch, split already if the mesh has Explicit axes: over these, shard_map splits nothing itself."""
    if AxisType.Explicit not in mesh.axis_types:
        return batch
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, NamedSharding(mesh, rows)), batch)
