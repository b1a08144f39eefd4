"""Pictures as batches, decoded while they are needed: for sets that do not fit into memory or the cache."""

import dataclasses
import hashlib
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Int, UInt8

from jaxnets.data.dataset import DataError, Split
from jaxnets.data.decoding import decode
from jaxnets.data.pictures import Pictures
from jaxnets.naming import quoted

MOST_TOGETHER, BYTES_TOGETHER = 32, 2**20  # pictures that a thread decodes at once, and their bytes

_Outcome: TypeAlias = tuple[UInt8[np.ndarray, "H W C"], int] | str  # a picture and its label, or the fault of it


class StreamState(TypedDict):
    """Where a stream stopped, as plain numbers and strings that JSON keeps.

    `position` counts the pictures passed since the first one of the first epoch. `order` differs between streams of
    other pictures or seeds, in which the position would mean another picture.
    """

    position: int
    order: str


class Share(NamedTuple):
    """How several processes have parts of one batch (see `jaxnets.parallel.share_of_process`).

    Attributes:
      rows: the rows of a batch that this process reads.
      whole: the batch of all processes, of this one's rows and the number of all.
    """

    rows: Callable[[int], slice]
    whole: Callable[[Split, int], Split]


@dataclasses.dataclass(frozen=True)
class _Places:
    """The order in which one process reads: the places of its pictures in the order of all, epoch after epoch."""

    num_pictures: int
    batch_size: int
    rows: Callable[[int], slice]

    @property
    def _sizes(self) -> tuple[int, slice, slice]:
        """How many whole batches an epoch has, and the rows that are read of one, and of the last, short one."""
        whole, rest = divmod(self.num_pictures, self.batch_size)
        return whole, self.rows(self.batch_size), self.rows(rest)

    def of(self, read: int) -> int:
        """The place of the picture that is read after so many."""
        whole, each, last = self._sizes
        mine = each.stop - each.start
        epoch, read = divmod(read, whole * mine + last.stop - last.start)
        batch = min(read // mine, whole)
        first = (each if batch < whole else last).start
        return epoch * self.num_pictures + batch * self.batch_size + first + read - batch * mine

    def before(self, place: int) -> int:
        """How many are read before the batch that begins at a place."""
        whole, each, last = self._sizes
        mine = each.stop - each.start
        epoch, place = divmod(place, self.num_pictures)
        return epoch * (whole * mine + last.stop - last.start) + place // self.batch_size * mine


class _Blocks:
    """The pictures' numbers in the order in which they are read, without an end: some at a time, as Grain's source."""

    def __init__(self, order: Any, places: _Places | None, length: int) -> None:
        self._order, self._places, self._length = order, places, length

    def __len__(self) -> int:
        return sys.maxsize // self._length

    def __getitem__(self, block: int) -> list[int]:
        reads = range(block * self._length, (block + 1) * self._length)
        return [int(self._order[read if self._places is None else self._places.of(read)]) for read in reads]


@dataclasses.dataclass(frozen=True)
class LazyPictures:
    """Pictures that are indexed like an array [N, size, size, C]; several threads decode the indexed ones."""

    pictures: Pictures
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.pictures), self.size, self.size, self.pictures.channels

    def __getitem__(self, index: int | np.integer | Int[np.ndarray, "M"]) -> UInt8[np.ndarray, "..."]:
        """One picture, or several.

        Raises:
          DataError: if one cannot be read.
        """
        if np.ndim(index) == 0:
            return self._decode(int(index))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack([*pool.map(self._decode, np.asarray(index).tolist())])

    def _decode(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        return decode(self.pictures[index].content, self.shape[1:], where=self.pictures.where(index))


class Stream:
    """Batches of uint8 images [B, size, size, C] and int32 labels [B], for ever: each `for` takes one epoch.

    Every epoch has each picture once, in an order that `seed` and the epoch determine, or in the pictures' own order
    without a seed; the last batch is short where the batch size does not divide their number. Threads decode a few
    batches ahead, so that memory depends on the batch size and the number of processors, not on the set.

        found = look_through(find("folder:photos"), name="photos")
        stream = Stream(found.train, size=224, batch_size=64, seed=0)
        for batch in stream:
            train_state, metrics = train_step(train_state, batch)
            saved = stream.state()  # the next batch starts right after this one

    Args:
      pictures: from `jaxnets.data.find`, and best through `jaxnets.data.decoded.look_through`, after which all of them
        can be read.
      size: height and width in pixels; pictures are scaled as `jaxnets.data.decoding.decode` says.
      batch_size: pictures in a batch, at least 1.
      seed: 0 or above; None does not shuffle.
      share: where several processes train on each batch, the part of each that this one decodes.

    Raises:
      DataError: if there are no pictures, or `size` or `batch_size` is below 1; and, when batches are taken, where a
        picture cannot be read.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        size: int,
        batch_size: int,
        seed: int | None = None,
        share: Share | None = None,
    ) -> None:
        import grain  # slow to import, and no other set needs it

        if not len(pictures) or size < 1 or batch_size < 1:
            raise DataError(
                f"{quoted(pictures.place)}: {len(pictures)} pictures, size {size} and batch size {batch_size} make no "
                "batch; each must be at least 1."
            )
        self._pictures, self._batch_size = pictures, batch_size
        self._image_shape = (size, size, pictures.channels)
        self._order = hashlib.sha256(f"{pictures.key} {seed}".encode()).hexdigest()[:16]
        indices = grain.MapDataset.source(range(len(pictures)))
        if seed is not None:
            # Grain adds the epoch's number to the seed; made of a hash, seeds 0 and 1 do not share all epochs but one.
            indices = indices.shuffle(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self._share = share
        self._places = share and _Places(len(pictures), batch_size, share.rows)
        # Grain's work for an element takes about as long as decoding one small picture.
        self._block = min(MOST_TOGETHER, max(1, BYTES_TOGETHER // math.prod(self._image_shape)))
        source = grain.MapDataset.source(_Blocks(indices.repeat(), self._places, self._block))
        threads = os.cpu_count() or 1
        ahead = max(4 * threads, 2 * batch_size) // self._block
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, ahead))
        self._iterator: Any = iter(source.map(self._decode_all).to_iter_dataset(options))
        self._decoded: deque[_Outcome] = deque()
        self._read = 0

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._pictures)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, counted from 0."""
        return self._position() // len(self._pictures)

    def __iter__(self) -> Iterator[Split]:
        """The remaining batches of the present epoch."""
        end = (self.epoch + 1) * len(self._pictures)
        while (position := self._position()) < end:
            size = min(self._batch_size, end - position)
            rows = self._share.rows(size) if self._share else slice(0, size)
            images = np.empty((rows.stop - rows.start, *self._image_shape), np.uint8)
            labels = np.empty(len(images), np.int32)
            for row in range(len(images)):
                outcome = self._next()
                if isinstance(outcome, str):
                    raise DataError(f"{outcome} Remove or replace it, or leave it out by skip_unreadable.")
                images[row], labels[row] = outcome
            batch = Split(images, labels)
            yield self._share.whole(batch, size) if self._share else batch

    def state(self) -> StreamState:
        """The position after the last batch; cheap, and may be taken between any two batches."""
        return {"position": self._position(), "order": self._order}

    def restore(self, state: StreamState) -> None:
        """Goes on, from the next `for`, where a stream of the same pictures and seed was.

        The batch size may differ, and with a `share` the number of processes, after a whole batch.

        Raises:
          DataError: if the state is of other pictures or another seed, or is none.
        """
        if state.get("order") != self._order:
            raise DataError(
                f"{quoted(self._pictures.place)}: the pictures or the seed differ from the state's, which was to be "
                "restored; give back the same, or begin anew."
            )
        position = state.get("position")
        if type(position) is not int or position < 0:
            raise DataError(f"the state to be restored has the position {quoted(position, 40)}; give one of `state()`.")
        self._read = self._places.before(position) if self._places else position
        self._decoded.clear()
        self._iterator.set_state({"next_index": self._read // self._block})

    def close(self) -> None:
        """Ends the threads; the stream gives no more batches."""
        self._decoded.clear()
        self._iterator.close()

    def _position(self) -> int:
        if self._places is None:
            return self._read
        place = self._places.of(self._read)
        epoch, place = divmod(place, len(self._pictures))
        return epoch * len(self._pictures) + place // self._batch_size * self._batch_size

    def _next(self) -> _Outcome:
        if not self._decoded:
            self._decoded.extend(next(self._iterator)[self._read % self._block :])
        self._read += 1
        return self._decoded.popleft()

    def _decode_all(self, indices: list[int]) -> list[_Outcome]:
        return [self._decode(index) for index in indices]

    def _decode(self, index: int) -> _Outcome:
        try:
            content, label = self._pictures[index]
            return decode(content, self._image_shape, where=self._pictures.where(index)), label
        except DataError as error:  # raised by the thread that iterates, when it gets here
            return str(error)
