"""Many pictures decoded by several threads, in their order."""

import hashlib
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8

from jaxnets.data.dataset import DataError
from jaxnets.data.decoding import decode
from jaxnets.data.pictures import Pictures

Progress: TypeAlias = Callable[[int, int], None]  # called with (done, total)

_AHEAD_BYTES = 2**28  # of decoded pictures that wait for their turn


class Seen(NamedTuple):
    """The outcome of decoding pictures.

    Attributes:
      labels: of the R readable ones, in their order.
      unreadable: a sentence for each of the others, by its index.
      repeated: groups of indices of the same bytes.
    """

    labels: list[int]
    unreadable: dict[int, str]
    repeated: list[list[int]]


class _One(NamedTuple):
    digest: bytes  # of the encoded content
    label: int = -1
    pixels: UInt8[np.ndarray, "H W C"] | None = None
    other_size: tuple[int, ...] | None = None
    fault: str | None = None


def decode_all(
    pictures: Pictures,
    shape: tuple[int, int, int] | None,
    write: Callable[[UInt8[np.ndarray, "H W C"]], Any],
    *,
    own_size: bool = False,
    on_progress: Progress | None = None,
) -> Seen:
    """Decodes each of these pictures.

    Args:
      pictures: the pictures to decode.
      shape: (H, W, C) to which they are scaled; None decodes each in its own size and drops its pixels.
      write: called with the pixels of each one that can be read, in their order, unless `shape` is None.
      own_size: refuse pictures of another size, and scale none.
      on_progress: called with (done, total) while pictures are decoded.

    Raises:
      DataError: if pictures differ from `shape`, given `own_size`.
    """
    unreadable: dict[int, str] = {}
    labels: list[int] = []
    same_bytes = defaultdict(list)
    # Pillow warns of oddities in a file, which are harmless. Set here, as worker threads share the filters.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for index, one in enumerate(_each(pictures, shape, own_size)):
            if one.other_size is not None:
                raise DataError(
                    f"{pictures.where(index)} has another size than the first, {one.other_size} and not {shape} "
                    "(H, W, C); give the size that all are to be brought to."
                )
            if one.digest:
                same_bytes[one.digest].append(index)
            if one.fault is not None:
                unreadable[index] = one.fault
            else:
                labels.append(one.label)
            if one.pixels is not None:
                write(one.pixels)
            if on_progress is not None:
                on_progress(index + 1, len(pictures))
    return Seen(labels, unreadable, [group for group in same_bytes.values() if len(group) > 1])


def _each(pictures: Pictures, shape: tuple[int, int, int] | None, own_size: bool) -> Iterator[_One]:
    import grain  # slow to import, and no other set needs it

    size = (None, None) if shape is None or own_size else shape[:2]

    def one(index: int) -> _One:
        digest = b""
        try:
            content, label = pictures[index]
            digest = hashlib.blake2b(content, digest_size=16).digest()
            pixels = decode(content, (*size, pictures.channels), where=pictures.where(index))
        except DataError as error:
            return _One(digest, fault=str(error))
        if shape is None:
            return _One(digest, label)
        if pixels.shape != shape:
            return _One(digest, label, other_size=pixels.shape)
        return _One(digest, label, pixels)

    threads = os.cpu_count() or 1
    ahead = 4 * threads if shape is None else max(1, min(4 * threads, _AHEAD_BYTES // math.prod(shape)))
    options = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
    yield from grain.MapDataset.source(range(len(pictures))).map(one).to_iter_dataset(options)
