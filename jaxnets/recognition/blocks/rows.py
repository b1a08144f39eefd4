"""Blocks of rows: cut from an array wherever it lies, of unit length, and split over the devices of a mesh."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Shaped

# Where rows lie: on the host, a mapped file too, or on a device.
Rows: TypeAlias = Shaped[np.ndarray, "_ ..."] | Shaped[jax.Array, "_ ..."]


def block(rows: Rows, start: int, size: int, dtype: Any = np.float32) -> Shaped[np.ndarray | jax.Array, "size ..."]:
    """rows[start : start + size] as `dtype`, with zeros after the last."""
    if isinstance(rows, np.ndarray):
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and is refused
            cut = np.asarray(rows[start : start + size], dtype)
        return cut if len(cut) == size else np.concatenate([cut, np.zeros((size - len(cut), *cut.shape[1:]), dtype)])
    return _cut(rows, start, size, dtype)


@functools.partial(jax.jit, static_argnames=("size", "dtype"))
def _cut(
    rows: Shaped[jax.Array, "N ..."], start: int | jax.Array, size: int, dtype: Any
) -> Shaped[jax.Array, "size ..."]:
    places = start + jnp.arange(size, dtype=jnp.int32)
    return jnp.take(rows, places, axis=0, mode="fill", fill_value=0).astype(dtype)


def unit(rows: Float[jax.Array, "B D"]) -> Float[jax.Array, "B D"]:
    """x/‖x‖ of each row; a row of zeros stays one.

    The squares are summed in pairs, so that a length is right to a few roundings however many terms it has.
    """
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1)
    dim = rows.shape[1]
    squares = jnp.pad(rows * rows, ((0, 0), (0, power_of_two(dim) - dim)))
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    return rows / jnp.where(squares > 0, jnp.sqrt(squares), 1)


def products(a: Float[jax.Array, "A D"], b: Float[jax.Array, "B D"]) -> Float[jax.Array, "A B"]:
    """The cosines of unit vectors, in float32 on every platform."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


@jax.jit
def finite_and_nonzero(rows: Float[jax.Array, "B D"]) -> tuple[Bool[jax.Array, "B"], Bool[jax.Array, "B"]]:
    """Of each row, whether all its numbers are finite, and whether one differs from zero."""
    return jnp.isfinite(rows).all(axis=1), (jnp.abs(rows) > 0).any(axis=1)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`: sizes of blocks, so that few programs are compiled."""
    return 1 << max(number - 1, 0).bit_length()


def over_devices(function: Callable[..., Any], mesh: Mesh | None, split: tuple[bool, ...], **options: Any) -> Any:
    """`function`, jitted; with a mesh, on all of its devices.

    Args:
      function: of arrays, whose results have a row for each row of the arguments that are split.
      mesh: any; its axes are taken as one.
      split: of each argument, whether its rows are split over the devices; else each device has all of it.
      options: of `jax.jit`.
    """
    if mesh is None:
        return jax.jit(function, **options)
    by_rows = P(tuple(mesh.axis_names))
    specs = tuple(by_rows if is_split else P() for is_split in split)
    shardings = [NamedSharding(mesh, spec) for spec in specs]
    mapped = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=by_rows), **options)

    @functools.wraps(function)
    def placed(*arguments: Any) -> Any:
        return mapped(*[jax.device_put(value, place) for value, place in zip(arguments, shardings, strict=True)])

    return placed


def device_count(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size
