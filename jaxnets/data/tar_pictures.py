"""Sets of pictures in tars: PATH.tar, DIRECTORY/*.tar, or DIRECTORY/train/*.tar with DIRECTORY/test/*.tar."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int32, Int64

from jaxnets.data import tars
from jaxnets.data.classes import count_classes, hold_out
from jaxnets.data.dataset import DataError
from jaxnets.data.decoding import endings
from jaxnets.data.folder import split_folders
from jaxnets.data.pictures import MAX_BYTES, Chosen, Encoded, Splits
from jaxnets.data.place import existing_folder
from jaxnets.naming import quoted

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # of a member: its key, and the ending after it
_MAX_LABEL = 32  # bytes


@dataclasses.dataclass(frozen=True, eq=False)
class TarPictures:
    """Members of tars as `jaxnets.data.pictures.Pictures`.

    Attributes:
      place: the folder of the tars.
      files: the tars, by their names relative to it.
      shards: [N] int32, which of them each picture is in.
      names: the pictures' names there.
      starts, sizes: [N] int64, where each begins, and how many bytes it has.
      labels: [N] int32.
    """

    place: Path
    files: tuple[str, ...]
    shards: Int32[np.ndarray, " N"]
    names: tuple[str, ...]
    starts: Int64[np.ndarray, " N"]
    sizes: Int64[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]
    channels: ClassVar[int] = 3

    @cached_property
    def key(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            facts = (self.place / file).stat()
            digest.update(repr((file, facts.st_size, facts.st_mtime_ns)).encode(errors="surrogateescape"))
        for numbers in (self.shards, self.starts, self.sizes, self.labels):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return quoted(f"{self.files[self.shards[index]]}/{self.names[index]}")

    def where(self, index: int) -> str:
        return quoted(self.place / self.files[self.shards[index]] / self.names[index])

    def __getitem__(self, index: int) -> Encoded:
        """The content of a picture, and its label.

        Raises:
          DataError: if it cannot be read, or is larger than `jaxnets.data.pictures.MAX_BYTES`.
        """
        size = int(self.sizes[index])
        if size > MAX_BYTES:
            raise DataError(f"{self.where(index)} is larger than {MAX_BYTES:,} bytes.")
        file = self.place / self.files[self.shards[index]]
        return Encoded(tars.read(file, int(self.starts[index]), size), int(self.labels[index]))


def find_tars(path: str) -> Splits:
    """The pictures KEY.jpg, or of another known ending, beside KEY.cls in tars, of which none is decoded yet.

    KEY.cls is a whole number, the class's name. Members of other endings are passed over; `notes` counts the keys that
    have a picture or a class alone. Where there are no tars for testing, a tenth of each class, drawn by a hash of the
    keys, is taken for that, the same on every machine.

    Raises:
      DataError: if there is no such file or folder, a tar is damaged or compressed, a key has two pictures or classes,
        or a class is no whole number below 2³¹.
    """
    root, train_files, test_files = _files(path)
    name = f"tar:{quoted(path)}"
    alone: list[str] = []
    samples = [
        (shard, member, label)
        for shard, file in enumerate(train_files + test_files)
        for member, label in _samples(root / file, alone)
    ]
    if not samples:
        raise DataError(f"{name}: has no picture beside a class, as in 1.jpg and 1.cls; give it some.")
    shards, members, values = zip(*samples, strict=True)
    numbers, labels = np.unique(np.array(values, np.int64), return_inverse=True)
    names, starts, sizes = zip(*members, strict=True)
    found = TarPictures(
        root,
        train_files + test_files,
        np.array(shards, np.int32),
        names,
        np.array(starts, np.int64),
        np.array(sizes, np.int64),
        labels.astype(np.int32),
    )
    is_test = found.shards >= len(train_files)
    if not test_files:
        is_test[hold_out([found.name(index) for index in range(len(found))], found.labels)] = True
    for split, count in (("train", (~is_test).sum()), ("test", is_test.sum())):
        if not count:
            raise DataError(f"{name}, {split} split: has no pictures, or too few to share; give it more.")
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    counted = count_classes(found.labels[train], found.labels[test], tuple(map(str, numbers.tolist())), name=name)
    notes = []
    if alone:
        which = f"{quoted(alone[0])}{f' and {len(alone) - 1} more' if len(alone) > 1 else ''}"
        notes.append(f"Left out, as they have a picture or a class alone: {which}.")
    return Splits(
        Chosen(found, train, counted.train_labels),
        Chosen(found, test[counted.kept], counted.test_labels),
        counted.classes,
        (*notes, *counted.notes),
    )


def _files(path: str) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """A folder, the names of its tars to train on, and the names of its tars to test with, if there are any."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        file = Path(path).expanduser()
        if file.is_file():
            return file.parent, (file.name,), ()
    root = existing_folder(path, "give a tar or a folder of tars, as in 'tar:PATH'")
    folders = [root]
    if (root / "train").is_dir():
        folders = [*split_folders(root, "a tenth of it")]
    found = []
    for folder in folders:
        names = tuple(each.relative_to(root).as_posix() for each in sorted(folder.glob("*.tar")))
        if not names:
            raise DataError(f"{quoted(folder)}: has no .tar; compressed ones have to be unpacked first.")
        found.append(names)
    return (root, found[0], found[1] if len(found) > 1 else ())


def _samples(file: Path, alone: list[str]) -> Iterator[tuple[tars.Member, int]]:
    """Each picture of a tar that has a class; names of pictures or classes that stand alone are added to `alone`."""
    known = endings()
    pictures: dict[str, tars.Member] = {}
    labels: dict[str, int] = {}
    for member in tars.members(file):
        parts = _NAME.fullmatch(member.name)
        if parts is None:
            continue
        key, ending = parts[1], f".{parts[2].lower()}"
        kind = labels if ending == ".cls" else pictures if ending in known else None
        if kind is None:
            continue
        if key in kind:
            what = "class" if kind is labels else "picture"
            raise DataError(f"{quoted(file / member.name)}: is a second {what} of one key; give each its own.")
        if kind is pictures:
            pictures[key] = member
        else:
            labels[key] = _label(file, member)
    alone += [f"{file.name}/{key}" for key in pictures.keys() ^ labels.keys()]
    for key, picture in pictures.items():
        if key in labels:
            yield picture, labels[key]


def _label(file: Path, member: tars.Member) -> int:
    text = tars.read(file, member.start, min(member.size, _MAX_LABEL))
    digits = re.fullmatch(rb"\s*(\d{1,10})\s*", text)
    if digits is None or int(digits[1]) >= 2**31:
        raise DataError(
            f"{quoted(file / member.name)}: has the class {quoted(text.decode(errors='replace'), 40)!r}, which is no "
            "whole number from 0 to 2³¹ − 1."
        )
    return int(digits[1])
