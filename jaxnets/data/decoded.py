"""Encoded pictures, wherever they are stored, as a data set: decoded once, and mapped into memory from then on."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxnets.data.cache import Decoded, Progress, Seen, decode_once, look_through_once
from jaxnets.data.dataset import DataError, Dataset, Split
from jaxnets.data.pictures import Encoded, Pictures


def load_pictures(
    train: Pictures,
    test: Pictures,
    *,
    size: tuple[int, int],
    own_size: bool = False,
    classes: tuple[str, ...],
    name: str,
    skip_unreadable: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Both splits, decoded once by several threads, and then kept under $XDG_CACHE_HOME/jaxnets, or ~/.cache/jaxnets.

    Memory depends on the number of processors, not on the set, which takes N·H·W·C bytes on the disk.

    Args:
      train: of the same place as `test`.
      test: the other split.
      size: (H, W) to which the pictures are scaled.
      own_size: refuse those of another size, and scale none.
      classes: the name of each label.
      name: what the set was asked for by.
      skip_unreadable: leave out the pictures that cannot be read, rather than refuse the set; `notes` names them.
      on_progress: called with (done, total) while pictures are decoded, and not at all where they are kept already.

    Returns:
      The set; its images are memory-mapped and read-only. Its `notes` name pictures that are there twice, byte for
      byte, under two classes or in both splits, and those left out.

    Raises:
      DataError: if pictures cannot be read, after all were tried; if what is decoded cannot be kept; or if they differ
        in size, given `own_size`.
    """
    both = _Both(train, test)
    decoded = decode_once(both, size, own_size=own_size, accept_unreadable=skip_unreadable, on_progress=on_progress)
    notes = _notes(name, both, decoded, skip_unreadable)
    num_train = int(np.searchsorted(_readable(both, decoded), len(train)))
    return Dataset(
        train=Split(decoded.images[:num_train], decoded.labels[:num_train]),
        test=Split(decoded.images[num_train:], decoded.labels[num_train:]),
        classes=classes,
        name=name,
        notes=notes,
    )


def look_through(train: Pictures, test: Pictures, *, name: str, on_progress: Progress | None = None) -> tuple[str, ...]:
    """The notes that `load_pictures` would give, of pictures that are not kept: before a stream of them begins.

    Each is decoded once, by several threads, and let go. Once all could be read, that is remembered beside what
    `load_pictures` keeps, and a later call is quick.

    Raises:
      DataError: if pictures cannot be read, after all were tried.
    """
    both = _Both(train, test)
    return _notes(name, both, look_through_once(both, on_progress=on_progress), skip_unreadable=False)


def _readable(both: "_Both", found: Decoded | Seen) -> Int[np.ndarray, " R"]:
    return np.delete(np.arange(len(both)), list(found.unreadable))


def _notes(name: str, both: "_Both", found: Decoded | Seen, skip_unreadable: bool) -> tuple[str, ...]:
    label_of = dict(zip(_readable(both, found).tolist(), found.labels.tolist(), strict=True))
    notes = list(_repetitions(both, label_of, found.repeated))
    if found.unreadable:
        reasons = list(found.unreadable.values())
        sentence = f"{len(reasons)} of {len(both)} pictures cannot be read: {' '.join(reasons[:5])}"
        sentence += f" And {len(reasons) - 5} more." if len(reasons) > 5 else ""
        if not skip_unreadable:
            raise DataError(f"{name}: {sentence} Remove or replace them, or let them be skipped.")
        notes.append(f"Left out, as {sentence}")
    return tuple(notes)


@dataclasses.dataclass(frozen=True)
class _Both:
    """The pictures of both splits, one after the other."""

    train: Pictures
    test: Pictures

    @property
    def place(self) -> Path:
        return self.train.place

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.train.key} {self.test.key}".encode()).hexdigest()[:16]

    @property
    def channels(self) -> int:
        return self.train.channels

    def __len__(self) -> int:
        return len(self.train) + len(self.test)

    def name(self, index: int) -> str:
        pictures, index = self._at(index)
        return pictures.name(index)

    def where(self, index: int) -> str:
        pictures, index = self._at(index)
        return pictures.where(index)

    def __getitem__(self, index: int) -> Encoded:
        pictures, index = self._at(index)
        return pictures[index]

    def _at(self, index: int) -> tuple[Pictures, int]:
        return (self.train, index) if index < len(self.train) else (self.test, index - len(self.train))


def _repetitions(both: _Both, label_of: dict[int, int], repeated: Iterable[list[int]]) -> Iterable[str]:
    """A sentence for each way in which pictures of the same bytes harm: two labels, or two splits."""
    found = defaultdict(list)
    for group in repeated:
        first = group[0]
        if first not in label_of:  # unreadable, and so are the others
            continue
        for other in group[1:]:
            if label_of[other] != label_of[first]:
                found["under two classes"].append((first, other))
            if (other < len(both.train)) != (first < len(both.train)):
                found["in both splits"].append((first, other))
    for where, pairs in found.items():
        one, same = (both.name(index) for index in pairs[0])
        count = "1 picture is" if len(pairs) == 1 else f"{len(pairs)} pictures are"
        yield f"{count} there {where}, byte for byte: {one} is {same}{', for one' if len(pairs) > 1 else ''}."
