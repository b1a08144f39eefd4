"""Counts over all pairs of N embeddings, in memory that does not grow with the number of pairs.

Scores are on a grid (`jaxnets.recognition.ties`), so that counts by step of the grid, 2²¹ + 1 of them for genuine pairs
and as many for impostors, are all that a ROC is made of: nothing is lost in them. They are taken block against block
on the device, in int32, and added up on the host, in int64, before a sum can be too large for the first.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Int32, Int64

from jaxnets.recognition.blocks.rows import Rows, block, device_count, over_devices, power_of_two, products, unit
from jaxnets.recognition.ties import STEPS, bins

BINS = 2 * STEPS + 1
_BLOCK = 2048
_LARGEST = 2**31 - 1  # in a cell, on the device


class Counts(NamedTuple):
    """Numbers of pairs, by step of the grid or by the interval between two thresholds, ascending."""

    genuine: Int64[np.ndarray, "*C bins"]
    impostor: Int64[np.ndarray, "*C bins"]


def counts_by_score(rows: Rows, labels: Int32[np.ndarray, "N"], mesh: Mesh | None = None) -> Counts:
    """[2²¹ + 1] each: the number of pairs i < j at each step of the grid of scores."""
    total = _summed(_scores(mesh), rows, labels, 2 * BINS, (), mesh)
    return Counts(total[:BINS], total[BINS:])


def counts_by_identity(
    rows: Rows, labels: Int32[np.ndarray, "N"], thresholds: Int[np.ndarray, "T"], mesh: Mesh | None = None
) -> Counts:
    """[C, T + 1] each: the pairs that an identity is in, by how many of the T thresholds they reach.

    Args:
      rows: [N, D].
      labels: [N] in 0..C−1.
      thresholds: steps of the grid, ascending.
      mesh: devices to share the pairs.
    """
    levels, identities = len(thresholds) + 1, int(labels.max()) + 1
    level_of_bin = np.searchsorted(thresholds, np.arange(BINS), side="right").astype(np.int32)
    total = _summed(_identities(levels, mesh), rows, labels, identities * 2 * levels, (level_of_bin,), mesh)
    by_kind = total.reshape(identities, 2, levels)
    return Counts(by_kind[:, 0], by_kind[:, 1])


def _summed(
    add: Callable[..., Any],
    rows: Rows,
    labels: Int32[np.ndarray, "N"],
    cells: int,
    tables: tuple[Any, ...],
    mesh: Mesh | None,
) -> Int64[np.ndarray, "cells"]:
    devices = device_count(mesh)
    size = devices * min(power_of_two(-(-len(rows) // devices)), max(_BLOCK // devices, 1))
    total = np.zeros(cells, np.int64)
    at_once = max(_LARGEST // (2 * size * size), 1)  # of blocks: a pair is counted once, or for both of its identities
    # The last cell takes all that are no pairs.
    counts: Any = jnp.zeros((devices, cells + 1), jnp.int32)
    for done, (first, second) in enumerate(_blocks(len(rows), size), 1):
        one, other = (
            (block(rows, i, size), block(labels, i, size, np.int32), np.arange(i, i + size, dtype=np.int32))
            for i in (first, second)
        )
        counts = add(counts, *one, *other, np.int32(len(rows)), *tables)
        if done % at_once == 0:
            total += np.asarray(counts)[:, :cells].sum(axis=0, dtype=np.int64)
            counts = jnp.zeros((devices, cells + 1), jnp.int32)
    return total + np.asarray(counts)[:, :cells].sum(axis=0, dtype=np.int64)


def _blocks(number: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, number, size):
        for second in range(first, number, size):
            yield first, second


def _pairs(
    rows: jax.Array,
    labels: jax.Array,
    places: jax.Array,
    other_rows: jax.Array,
    other_labels: jax.Array,
    other_places: jax.Array,
    number: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each pair in a block: its step of the grid, whether it is one of i < j < N, and whether it is genuine."""
    steps = bins(products(unit(rows), unit(other_rows)))
    is_pair = (places[:, None] < other_places[None, :]) & (other_places < number)[None, :]
    return steps, is_pair, labels[:, None] == other_labels[None, :]


@functools.lru_cache(maxsize=8)
def _scores(mesh: Mesh | None) -> Callable[..., Any]:
    def add(counts: Int32[jax.Array, "1 cells"], *pairs: jax.Array) -> Int32[jax.Array, "1 cells"]:
        steps, is_pair, is_genuine = _pairs(*pairs)
        return _add(counts, jnp.where(is_genuine, steps, steps + BINS), is_pair)

    return over_devices(add, mesh, (True,) * 4 + (False,) * 4, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def _identities(levels: int, mesh: Mesh | None) -> Callable[..., Any]:
    def add(counts: Int32[jax.Array, "1 cells"], *arguments: jax.Array) -> Int32[jax.Array, "1 cells"]:
        *pairs, level_of_bin = arguments
        steps, is_pair, is_genuine = _pairs(*pairs)
        _, labels, _, _, other_labels, _, _ = pairs
        level = level_of_bin[steps] + jnp.where(is_genuine, 0, levels)
        counts = _add(counts, labels[:, None] * (2 * levels) + level, is_pair)
        return _add(counts, other_labels[None, :] * (2 * levels) + level, is_pair & ~is_genuine)

    return over_devices(add, mesh, (True,) * 4 + (False,) * 5, donate_argnums=0)


def _add(counts: Int32[jax.Array, "1 cells"], cells: jax.Array, counted: jax.Array) -> Int32[jax.Array, "1 cells"]:
    cells = jnp.where(counted, cells, counts.shape[1] - 1)
    return counts.at[0, cells.reshape(-1)].add(1, mode="promise_in_bounds")
