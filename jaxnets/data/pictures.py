"""Labelled pictures that are still encoded, wherever they are stored."""

import dataclasses
import hashlib
import os
import warnings
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32

from jaxnets.data.dataset import DataError, GivenPairs
from jaxnets.data.decoding import opened
from jaxnets.files import opened_regular, read_regular
from jaxnets.naming import quoted

MAX_BYTES = 2**28  # of one picture's file


class Encoded(NamedTuple):
    """A picture as it is stored, in one of `jaxnets.data.decoding.FORMATS`, and its label."""

    content: bytes
    label: int


@runtime_checkable
class Pictures(Protocol):
    """N labelled pictures that are still encoded, each read when it is asked for."""

    @property
    def place(self) -> Path:
        """The folder in which they are stored."""

    @property
    def key(self) -> str:
        """Sixteen digits that change with the stored data."""

    @property
    def channels(self) -> int:
        """The channels of each when it is decoded: 1 for grey, 3 for RGB."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of a picture within its set, as messages have it."""

    def where(self, index: int) -> str:
        """The names of a picture and of its set, as messages have them."""

    def __getitem__(self, index: int) -> Encoded:
        """One picture and its label; several threads may ask at once.

        Raises:
          DataError: if the picture is not there, or its label is none of the classes.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class PictureFiles:
    """Labelled picture files, in an order that does not depend on the file system.

    Attributes:
      root: the folder that the names are relative to.
      names: of the files, N of them.
      labels: [N] int32.
      key: sixteen digits that change with any file's name, size or time of modification, and with any label.
    """

    root: Path
    names: tuple[str, ...]
    labels: Int32[np.ndarray, " N"]
    key: str
    channels: ClassVar[int] = 3

    @property
    def place(self) -> Path:
        return self.root

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return quoted(self.names[index])

    def where(self, index: int) -> str:
        return quoted(self.root / self.names[index])

    def __getitem__(self, index: int) -> Encoded:
        """The content of a file, and its label.

        Raises:
          DataError: as `read_file`.
        """
        return Encoded(read_file(self.root / self.names[index]), int(self.labels[index]))


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """Some of other pictures, with labels of their own.

    Attributes:
      pictures: the pictures to choose from.
      indices: [N] which of them they are.
      labels: [N] int32.
    """

    pictures: Pictures
    indices: Int[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]

    @property
    def place(self) -> Path:
        return self.pictures.place

    @cached_property
    def key(self) -> str:
        digest = hashlib.sha256(self.pictures.key.encode())
        for numbers in (self.indices, self.labels):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    @property
    def channels(self) -> int:
        return self.pictures.channels

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.pictures.name(int(self.indices[index]))

    def where(self, index: int) -> str:
        return self.pictures.where(int(self.indices[index]))

    def __getitem__(self, index: int) -> Encoded:
        return Encoded(self.pictures[int(self.indices[index])].content, int(self.labels[index]))


class Splits(NamedTuple):
    """A train and a test split of encoded pictures, whose labels are indices into `classes`; `notes` are about them.

    `open_set` and `pairs` are as in a `Dataset`.
    """

    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    open_set: bool = False
    pairs: GivenPairs | None = None


class ReadableSplits(NamedTuple):
    """The same of pictures that were looked through."""

    train: Chosen
    test: Chosen
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """The content of a picture file of at most `MAX_BYTES`.

    Raises:
      DataError: if it is no regular file, is larger, or the operating system does not give it.
    """
    try:
        return read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise DataError(f"{quoted(path)} cannot be read ({error.strerror or error}).") from error


def check_file(path: Path) -> None:
    """Reads a picture file's header, which takes next to no time.

    Raises:
      DataError: if it is no regular file, cannot be read, or holds no picture by its header.
    """
    where = quoted(path)
    try:
        with opened_regular(path) as file:
            if not os.fstat(file.fileno()).st_size:
                raise DataError(f"{where} is empty: it holds no picture.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of oddities in a file, which are harmless
                with opened(file, where):
                    pass
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror or error}).") from error
