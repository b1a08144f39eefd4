"""Embeddings and labels as users give them, checked."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int32

from jaxnets.naming import quoted
from jaxnets.recognition.blocks.rows import Rows, block, finite_and_nonzero, power_of_two

Matrix: TypeAlias = ArrayLike | Sequence[Any]  # of embeddings or pairs: an array, or a list of rows
Labels: TypeAlias = ArrayLike | Sequence[int] | Sequence[str]

_BLOCK = 16_384


def checked_embeddings(name: str, embeddings: Matrix) -> Rows:
    """[N, D], where they lie; arrays on several devices are read by the host.

    Raises:
      ValueError: they are no matrix of real numbers, there are none, or one is not finite or zero in float32.
    """
    several = isinstance(embeddings, jax.Array) and len(embeddings.sharding.device_set) > 1
    rows = embeddings if isinstance(embeddings, jax.Array) and not several else np.asarray(embeddings)
    if rows.ndim != 2 or not all(rows.shape):
        raise ValueError(f"{name} must be [N, D] with a row for each example; their shape is {list(rows.shape)}")
    if not (jnp.issubdtype(rows.dtype, jnp.floating) or jnp.issubdtype(rows.dtype, jnp.integer)):
        raise ValueError(f"{name} must be real numbers, not {rows.dtype}")
    size = min(_BLOCK, power_of_two(len(rows)))
    for start in range(0, len(rows), size):
        count = min(size, len(rows) - start)
        finite, nonzero = (np.asarray(flags)[:count] for flags in finite_and_nonzero(block(rows, start, size)))
        if not finite.all():
            raise ValueError(f"{name}: row {start + np.argmin(finite)} has a number that is not finite in float32")
        if not nonzero.all():
            raise ValueError(f"{name}: row {start + np.argmin(nonzero)} is zero in float32, and so has no direction")
    return rows


def checked_gallery(name: str, embeddings: Matrix, rows: Rows, of: str) -> Rows:
    """As `checked_embeddings`; with a ValueError, too, where they have another D than `rows`, which are named `of`."""
    gallery = checked_embeddings(name, embeddings)
    if gallery.shape[1] != rows.shape[1]:
        raise ValueError(f"{name} have {gallery.shape[1]} dimensions, and {of} {rows.shape[1]}: they must have as many")
    return gallery


def checked_labels(*named: tuple[str, Labels, int]) -> tuple[list[Int32[np.ndarray, "N"]], np.ndarray]:
    """Of each (name, labels, number of embeddings) the labels as numbers 0..C−1, and the C labels.

    Raises:
      ValueError: there are more or fewer than embeddings, or they are neither integers nor strings.
    """
    arrays = []
    for name, labels, count in named:
        array = np.asarray(labels)
        if array.shape != (count,):
            raise ValueError(f"{name} must be one for each of {count} embeddings; their shape is {list(array.shape)}")
        if array.dtype.kind not in "iuUS":
            raise ValueError(f"{name} must be integers or strings, not {array.dtype}")
        # Signed and unsigned ones together would become floating-point, which takes large ones for each other.
        arrays.append(array.astype(np.int64) if array.dtype.kind in "iu" else array)
    kinds = {"a number" if array.dtype.kind in "iu" else "a string" for array in arrays}
    if len(kinds) > 1:
        names = " and ".join(f"{name} ({quoted(array[0])}, …)" for (name, *_), array in zip(named, arrays, strict=True))
        raise ValueError(f"{names} must be of one kind, integers or strings")
    distinct, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    ends = np.cumsum([len(array) for array in arrays])[:-1]
    return [part.astype(np.int32) for part in np.split(codes, ends)], distinct


def checked_ranks(name: str, ranks: Sequence[int] | None, default: Sequence[int], size: int) -> tuple[int, ...]:
    """Ranks in ascending order; None takes `default`, up to the size of the gallery.

    Raises:
      ValueError: there is none, or one is below 1 or above `size`, the number of embeddings in the gallery.
    """
    if ranks is None:
        return tuple(rank for rank in default if rank <= size)
    if not ranks:
        raise ValueError(f"there must be a rank in {name}, or None for the usual ones")
    for rank in ranks:
        if not 1 <= rank <= size:
            raise ValueError(f"{name} must lie in 1..{size}, as a query has {size} others to be ranked; got {rank}")
    return tuple(sorted(set(ranks)))
