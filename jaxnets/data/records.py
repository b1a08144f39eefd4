"""Sets of faces, or of other identities, in RecordIO: DIRECTORY/train.rec with train.idx, as insightface has them."""

import dataclasses
import hashlib
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxnets.data.classes import count_classes, hold_out
from jaxnets.data.dataset import DataError
from jaxnets.data.pictures import Encoded, Splits
from jaxnets.data.place import existing_folder
from jaxnets.data.recordio import Label, Reader
from jaxnets.naming import quoted

UNSEEN, MOST_UNSEEN = 0.25, 1000  # of the identities, those for the test


@dataclasses.dataclass(frozen=True, eq=False)
class RecordPictures:
    """Records as `jaxnets.data.pictures.Pictures`.

    Attributes:
      reader: of the file that they are in.
      keys: [N] int64, theirs.
      labels: [N] int32.
      place: the folder of the file.
    """

    reader: Reader
    keys: Int64[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]
    place: Path
    channels: ClassVar[int] = 3

    @cached_property
    def key(self) -> str:
        digest = hashlib.sha256(repr(self.reader.facts).encode())
        for numbers in (self.keys, self.labels):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.keys)

    def chosen(self, which: Bool[np.ndarray, " N"]) -> "RecordPictures":
        return dataclasses.replace(self, keys=self.keys[which], labels=self.labels[which])

    def name(self, index: int) -> str:
        return f"record {self.keys[index]}"

    def where(self, index: int) -> str:
        return self.reader.where(int(self.keys[index]))

    def __getitem__(self, index: int) -> Encoded:
        return Encoded(self.reader[int(self.keys[index])].payload, int(self.labels[index]))


def find_records(directory: str) -> Splits:
    """The records of DIRECTORY/train.rec, or of the one .rec file there, of which no picture is decoded yet.

    Such a set has no test split: a tenth of each class, drawn by a hash of the keys, is taken for one, the same on
    every machine. The classes are named by their numbers. A record's label is a number, or the first one of several.
    Where record 0 has labels and no picture, as insightface writes it, the first label tells how many pictures there
    are, and other records after these are left out.

    Raises:
      DataError: if there is no such folder or file, if it is damaged, or if a label is no whole number of 0 or more.
    """
    every, classes = _all_records(directory)
    is_test = np.zeros(len(every), bool)
    is_test[hold_out([str(key) for key in every.keys.tolist()], every.labels)] = True
    if not is_test.any():
        raise DataError(
            f"{every.where(0)} and all others are of classes of one picture, and none is left to test with."
        )
    train, test = every.chosen(~is_test), every.chosen(is_test)
    counted = count_classes(train.labels, test.labels, classes, name=f"recordio:{quoted(directory)}")
    return Splits(train, test, classes, counted.notes)


def find_record_identities(directory: str, *, seed: int = 0) -> Splits:
    """The same records split by class: identities to train on, and others, which training never sees, to judge on.

    The test has a quarter of the classes, or `MOST_UNSEEN` if that is less, drawn by the seed among classes of two
    pictures or more.

    Raises:
      DataError: as `find_records`, and if training or the test has fewer than two classes.
    """
    every, classes = _all_records(directory)
    repeated = np.flatnonzero(np.bincount(every.labels) > 1)
    rng = np.random.RandomState(seed)  # the one generator whose numbers NumPy promises never to change
    unseen = repeated[rng.permutation(len(repeated))[: min(round(UNSEEN * len(classes)), MOST_UNSEEN)]]
    seen = len(classes) - len(unseen)
    if len(unseen) < 2 or seen < 2:
        raise DataError(
            f"identities:{quoted(directory)}: of {len(classes)} classes, {len(repeated)} with two pictures or more, "
            f"the test would have {len(unseen)} and training {seen}; both need two or more."
        )
    is_test = np.isin(every.labels, unseen)
    note = f"The test has {len(unseen):,} of {len(classes):,} classes (drawn, seed {seed}), and no other has."
    return Splits(every.chosen(~is_test), every.chosen(is_test), classes, (note,), open_set=True)


def _all_records(directory: str) -> tuple[RecordPictures, tuple[str, ...]]:
    """All pictures of a set, and the names of their classes."""
    root = existing_folder(directory, "give one that holds train.rec and train.idx, as in 'recordio:DIRECTORY'")
    candidates = sorted(root.glob("*.rec"))
    file = root / "train.rec"
    if file not in candidates:
        if len(candidates) != 1:
            have = ", ".join(quoted(each.name) for each in candidates[:5]) or "no .rec file"
            raise DataError(f"{quoted(root)}: has {have} but no train.rec; name the one to train on train.rec.")
        file = candidates[0]
    reader = Reader(file)
    keys = _of_pictures(reader)
    values = np.array([_number(reader.label(key), reader, key) for key in keys.tolist()], np.int64)
    numbers, labels = np.unique(values, return_inverse=True)
    return RecordPictures(reader, keys, labels.astype(np.int32), root), tuple(map(str, numbers.tolist()))


def _of_pictures(reader: Reader) -> Int64[np.ndarray, " N"]:
    keys = reader.keys
    if len(keys) and keys[0] == 0:
        label = reader.label(0)
        if isinstance(label, np.ndarray):  # the header that insightface writes
            keys = keys[(keys > 0) & (keys < float(label[0]))]
    if not len(keys):
        raise DataError(f"{reader.where(0)}: the file has no records of pictures; fetch it again.")
    return keys


def _number(label: Label, reader: Reader, key: int) -> int:
    value = float(label[0]) if isinstance(label, np.ndarray) else label
    if not 0 <= value < 2**31 or value != int(value):
        raise DataError(f"{reader.where(key)} has the label {value}, which is no whole number of 0 or more.")
    return int(value)
