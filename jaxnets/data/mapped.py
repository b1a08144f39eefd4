"""Arrays that stay in a file and are mapped into memory, read without filling it.

The pages of a mapped file that were read count as this process's memory until the system wants them back, so that a
set that is read through would seem to fill the memory. Functions that read many rows give the pages back as they go on.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

_PIECE_BYTES = 1 << 24


def map_images(path: Path, shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "N H W C"]:
    """The array of this shape in a file of its bytes and nothing else, read-only.

    Raises:
      OSError: where it cannot be read.
      ValueError: where the file is of another length.
    """
    length = path.stat().st_size
    if length != math.prod(shape):
        raise ValueError(f"{path.name} has {length} bytes and not {math.prod(shape)}")
    if not length:  # nothing can be mapped
        return np.empty(shape, np.uint8)
    return np.memmap(path, np.uint8, mode="r", shape=shape)


def rows(array: Any, indices: Int[np.ndarray, " M"]) -> Any:
    """`array[indices]`, whatever kind of array [N, …] that is; of a mapped one, a copy."""
    copied = array[indices]
    _release(array)
    return copied


def pieces(array: Shaped[np.ndarray, "N *rest"]) -> Iterator[Shaped[np.ndarray, "M *rest"]]:
    """All of an array, a few contiguous rows at a time."""
    stride = max(1, _PIECE_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), stride):
        yield np.ascontiguousarray(array[start : start + stride])
        _release(array)


def _release(array: Any) -> None:
    base = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
