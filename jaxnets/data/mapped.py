"""Arrays that stay in a file and are mapped into memory, read without filling it.

What is read of a mapped file counts as this process's memory until the system wants it back, and a set that is read
through would seem to take all there is. So those who read many rows give the pages back as they go on.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

_PIECE_BYTES = 1 << 24


def open_mapped(path: Path) -> Shaped[np.ndarray, "..."]:
    """The array of an .npy file, read-only.

    Raises:
      OSError, EOFError, ValueError: where it is not there, or not whole.
    """
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


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
