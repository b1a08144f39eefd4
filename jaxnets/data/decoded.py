"""Encoded pictures, wherever they are stored, as a data set: decoded once, and mapped into memory from then on."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxnets.data.cache import Kept, decode_once, look_through_once
from jaxnets.data.classes import Counted, count_classes, count_identities
from jaxnets.data.dataset import DataError, Dataset, GivenPairs, Split
from jaxnets.data.decoding import decode
from jaxnets.data.mapped import rows
from jaxnets.data.pictures import Chosen, Encoded, Pictures, ReadableSplits, Splits
from jaxnets.data.threads import Progress, Seen
from jaxnets.naming import quoted

# The option of the library, and of the command line.
REMEDY = "Remove or replace them, or leave them out by skip_unreadable=True (--skip-unreadable)."


def load_pictures(
    found: Splits,
    *,
    size: int | None,
    name: str,
    skip_unreadable: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Both splits, decoded once by several threads, and then kept under $XDG_CACHE_HOME/jaxnets, or ~/.cache/jaxnets.

    Memory depends on the number of processors, not on the set, which takes N·H·W·C bytes on the disk.

    Args:
      found: two splits of one place.
      size: height and width in pixels to which the pictures are scaled; None keeps the size that they have, which must
        be the same for all.
      name: the name by which the set was asked for.
      skip_unreadable: leave out the pictures that cannot be read and name them in `notes`, rather than refuse the set.
      on_progress: called with (done, total) while pictures are decoded, and not at all where they are kept already.

    Returns:
      The set; its images are memory-mapped and read-only. Its `notes` are `found`'s, and sentences about
      pictures that are there twice, byte for byte, under two classes or in both splits, about pictures left out, and
      about classes without any.

    Raises:
      DataError: if `size` is below 1; if pictures cannot be read, after all were tried; if the decoded pixels cannot be
        kept; if they differ in size and none is given; or if no test picture is of a class that training has.
    """
    if size is not None and size < 1:
        raise DataError(f"{quoted(name)}: size is {size}; give a height and width of at least 1 pixel.")
    both = _Both(found.train, found.test)
    kept = decode_once(
        both,
        _first_size(both) if size is None else (size, size),
        own_size=size is None,
        accept_unreadable=skip_unreadable,
        on_progress=on_progress,
    )
    images = kept.images
    assert images is not None
    chosen = _choose(found, both, kept, name, skip_unreadable)
    num_train = len(chosen.train_labels)
    pairs, about_pairs = None, ""
    if found.pairs is not None:
        pairs, about_pairs = _readable_pairs(found.pairs, _kept_of_test(found, both, kept.seen, chosen), name)
    test_images = images[num_train:]
    if len(chosen.test_labels) < len(test_images):
        test_images = rows(test_images, chosen.kept)
    return Dataset(
        train=Split(images[:num_train], chosen.train_labels),
        test=Split(test_images, chosen.test_labels),
        classes=chosen.classes,
        name=name,
        notes=(*chosen.notes, about_pairs) if about_pairs else chosen.notes,
        open_set=found.open_set,
        pairs=pairs,
    )


def look_through(
    found: Splits, *, name: str, skip_unreadable: bool = False, on_progress: Progress | None = None
) -> ReadableSplits:
    """The pictures of the set that `load_pictures` would return, still encoded. To be called before they are streamed.

    Several threads decode each picture once and keep no pixels. The result is kept beside `load_pictures`' results, so
    that a later call is quick.

    Args:
      found: two splits of one place.
      name: the name by which the set was asked for.
      skip_unreadable: leave out the pictures that cannot be read and name them in `notes`, rather than refuse the set.
      on_progress: called with (done, total) while pictures are looked at, and not at all where the result was kept.

    Raises:
      DataError: if pictures cannot be read, after all were tried, or no test picture is of a class that training has.
    """
    both = _Both(found.train, found.test)
    kept = look_through_once(both, accept_unreadable=skip_unreadable, on_progress=on_progress)
    chosen = _choose(found, both, kept, name, skip_unreadable)
    readable, num_train = _readable(both, kept.seen), len(chosen.train_labels)
    return ReadableSplits(
        Chosen(found.train, readable[:num_train], chosen.train_labels),
        Chosen(found.test, _kept_of_test(found, both, kept.seen, chosen), chosen.test_labels),
        chosen.classes,
        chosen.notes,
    )


def _choose(found: Splits, both: "_Both", kept: Kept, name: str, skip_unreadable: bool) -> Counted:
    """The readable pictures of classes that training has; `kept` are positions among the readable test pictures."""
    notes = [*([kept.fault] if kept.fault else []), *found.notes, *_notes(name, both, kept.seen, skip_unreadable)]
    labels = np.array(kept.seen.labels, np.int32)
    num_train = int(np.searchsorted(_readable(both, kept.seen), len(found.train)))
    for split, count, left in (
        ("train", len(found.train), num_train),
        ("test", len(found.test), len(labels) - num_train),
    ):
        if not left:
            raise DataError(
                f"{quoted(name)}, {split} split: not one of its {count} pictures can be read; give it some."
            )
    if found.open_set:
        counted = count_identities(labels[:num_train], labels[num_train:], found.classes)
    else:
        counted = count_classes(labels[:num_train], labels[num_train:], found.classes, name=quoted(name))
    return counted._replace(notes=tuple(dict.fromkeys((*notes, *counted.notes))))  # each once


def _first_size(pictures: "_Both") -> tuple[int, int]:
    """(H, W) of the first picture that can be read."""
    fault: DataError | None = None
    for index in range(len(pictures)):
        try:
            height, width, _ = decode(
                pictures[index].content, (None, None, pictures.channels), where=pictures.where(index)
            ).shape
            return height, width
        except DataError as error:
            fault = fault or error
    raise fault or DataError(f"{quoted(pictures.place)}: has no pictures.")


def _readable(both: "_Both", found: Seen) -> Int[np.ndarray, " R"]:
    return np.delete(np.arange(len(both)), list(found.unreadable))


def _kept_of_test(found: Splits, both: "_Both", seen: Seen, chosen: Counted) -> Int[np.ndarray, " K"]:
    """Which of the test's pictures are kept."""
    return _readable(both, seen)[len(chosen.train_labels) :][chosen.kept] - len(found.train)


def _readable_pairs(pairs: GivenPairs, kept: Int[np.ndarray, " K"], name: str) -> tuple[GivenPairs, str]:
    """The pairs of pictures that are kept, in their new order, and a sentence about others."""
    place = np.searchsorted(kept, pairs.indices)
    is_there = (kept[np.minimum(place, len(kept) - 1)] == pairs.indices).all(axis=1)
    left = int(is_there.sum())
    if left == len(is_there):
        return GivenPairs(place, pairs.folds), ""
    if len(np.unique(pairs.folds[is_there])) < 2:
        raise DataError(f"{quoted(name)}: there are too few pictures that can be read for pairs in two folds.")
    sentence = f"Left out, as a picture of theirs cannot be read: {len(is_there) - left} of {len(is_there)} pairs."
    return GivenPairs(place[is_there], pairs.folds[is_there]), sentence


def _notes(name: str, both: "_Both", found: Seen, skip_unreadable: bool) -> tuple[str, ...]:
    label_of = dict(zip(_readable(both, found).tolist(), found.labels, strict=True))
    notes = list(_repetitions(both, label_of, found.repeated))
    if found.unreadable:
        reasons = list(found.unreadable.values())
        sentence = f"{len(reasons)} of {len(both)} pictures cannot be read: {' '.join(reasons[:5])}"
        sentence += f" And {len(reasons) - 5} more." if len(reasons) > 5 else ""
        if not skip_unreadable:
            raise DataError(f"{quoted(name)}: {sentence} {REMEDY}")
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
    """Sentences about pictures of the same bytes that have two labels, or are in both splits."""
    found = defaultdict(list)
    for group in repeated:
        first = group[0]
        if first not in label_of:  # unreadable, like the others of the group
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
