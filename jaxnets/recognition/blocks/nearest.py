"""The k nearest of a gallery, exactly, in blocks of queries and of the gallery.

In a block all products are computed at once. The k best of a row are found in two steps: of each of B/32 groups of 32
columns the largest, by vector instructions; then, among the k groups with the largest ones, the k largest. Only the
second step sorts, and it sees 32·k numbers in place of B.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Int32

from jaxnets.recognition.blocks.rows import Rows, block, device_count, over_devices, power_of_two, products, unit
from jaxnets.recognition.ties import ranked

GROUP = 32  # columns that one number stands for in the first step
_GALLERY_BLOCK = 8192
_PRODUCTS = 2**25  # in a block, 128 MiB


class Neighbours(NamedTuple):
    """Of a block of queries.

    Attributes:
      start: the first query's index.
      keys: [B, k] float32, descending: cosines, or `ties.ranked`'s keys; −∞ where the gallery has fewer.
      indices: [B, k] int32 in the gallery.
    """

    start: int
    keys: Float[np.ndarray, "B k"]
    indices: Int32[np.ndarray, "B k"]


def neighbours(
    queries: Rows,
    gallery: Rows,
    k: int,
    *,
    labels: tuple[Int[np.ndarray, "Q"], Int[np.ndarray, "G"]] | None = None,
    leave_one_out: bool = False,
    mesh: Mesh | None = None,
) -> Iterator[Neighbours]:
    """The k nearest to each query by cosine, block by block.

    Args:
      queries, gallery: [Q, D] and [G, D], finite and not zero.
      k: how many, at most G.
      labels: of both, non-negative; they rank by `ties.ranked`; without them the cosines rank as they are.
      leave_one_out: the gallery is the queries, and none is a neighbour of itself.
      mesh: the queries of a block are split over its devices.

    At one time there are the products of 2²⁵ pairs at most, and four arrays of their size.
    """
    columns = min(_GALLERY_BLOCK, max(power_of_two(len(gallery)), GROUP))
    devices = device_count(mesh)
    room = max(_PRODUCTS // (columns + 2 * power_of_two(k)) // devices, 1)
    size = devices * min(power_of_two(-(-len(queries) // devices)), 1 << (room.bit_length() - 1))
    whole, last = (_merging(k, labels is not None, leave_one_out, is_whole, mesh) for is_whole in (True, False))
    query_labels, gallery_labels = labels or (np.zeros(len(queries), np.int32), np.zeros(len(gallery), np.int32))
    for start in range(0, len(queries), size):
        count = min(size, len(queries) - start)
        rows = _unit(mesh)(block(queries, start, size))
        codes = block(np.asarray(query_labels), start, size, np.int32)
        places = np.arange(start, start + size, dtype=np.int32)
        keys: Any = np.full((size, k), -np.inf, np.float32)
        indices: Any = np.full((size, k), -1, np.int32)
        for first in range(0, len(gallery), columns):
            keys, indices = (whole if first + columns <= len(gallery) else last)(
                keys,
                indices,
                rows,
                codes,
                places,
                block(gallery, first, columns),
                block(np.asarray(gallery_labels), first, columns, np.int32),
                np.int32(first),
                np.int32(len(gallery)),
            )
        yield Neighbours(start, np.asarray(keys)[:count], np.asarray(indices)[:count])


@functools.lru_cache(maxsize=8)
def _unit(mesh: Mesh | None) -> Callable[..., Any]:
    return over_devices(unit, mesh, (True,))


@functools.lru_cache(maxsize=32)
def _merging(k: int, labelled: bool, leave_one_out: bool, is_whole: bool, mesh: Mesh | None) -> Callable[..., Any]:
    """A function of the best so far and one more block of the gallery, which returns the best of both.

    Each operation on all products costs time, so a whole block skips the masks that the last one needs.
    """

    def merge(
        keys: Float[jax.Array, "B k"],
        indices: Int32[jax.Array, "B k"],
        queries: Float[jax.Array, "B D"],
        query_labels: Int32[jax.Array, "B"],
        query_places: Int32[jax.Array, "B"],
        gallery: Float[jax.Array, "C D"],
        gallery_labels: Int32[jax.Array, "C"],
        first: Int32[jax.Array, ""],
        gallery_size: Int32[jax.Array, ""],
    ) -> tuple[Float[jax.Array, "B k"], Int32[jax.Array, "B k"]]:
        scores = products(queries, unit(gallery))
        if labelled:
            scores = ranked(scores, query_labels[:, None] == gallery_labels[None, :])
        places = first + jnp.arange(len(gallery), dtype=jnp.int32)
        if not is_whole:
            scores = scores + jnp.where(places < gallery_size, 0, -jnp.inf).astype(jnp.float32)[None, :]
        if leave_one_out:
            scores = jnp.where(query_places[:, None] == places[None, :], -jnp.inf, scores)
        found, columns = _largest(scores, min(k, scores.shape[1]))
        keys = jnp.concatenate([keys, found], axis=1)
        indices = jnp.concatenate([indices, first + columns], axis=1)
        keys, kept = jax.lax.top_k(keys, k)
        return keys, jnp.take_along_axis(indices, kept, axis=1)

    return over_devices(merge, mesh, (True,) * 5 + (False,) * 4)


def _largest(scores: Float[jax.Array, "B C"], k: int) -> tuple[Float[jax.Array, "B k"], Int32[jax.Array, "B k"]]:
    """The k largest of each row, and their columns."""
    rows, width = scores.shape
    groups = width // GROUP
    if width % GROUP or 2 * k > groups:
        found, columns = jax.lax.top_k(scores, k)
        return found, columns
    # The barrier has XLA write the scores once, rather than compute them again in each of the 32 slices.
    scores = jax.lax.optimization_barrier(scores)
    slices = scores.reshape(rows, GROUP, groups)
    _, best = jax.lax.top_k(functools.reduce(jnp.maximum, [slices[:, i] for i in range(GROUP)]), k)
    columns = best[:, :, None] + groups * jnp.arange(GROUP, dtype=jnp.int32)[None, None, :]
    columns = columns.reshape(rows, k * GROUP)
    found, kept = jax.lax.top_k(jnp.take_along_axis(scores, columns, axis=1), k)
    return found, jnp.take_along_axis(columns, kept, axis=1)
