"""RecordIO, in which sets of millions of faces exist, read without MXNet: one record at a time, by its key.

A record is a magic number, a word with a flag in its upper 3 bits and a length in the lower 29, and so many bytes,
padded to a multiple of 4. Bytes that equal the magic number, at a multiple of 4, would look like the next record: there
they are left out, and the record is split. Flag 0 marks a whole record, and 1, 2 and 3 its first, middle and last part.

The bytes begin with a header: the number of labels, a label as float32 that counts where that number is 0, and two
uint64; then so many labels as float32. The rest is the payload. FILE.idx has lines of a key and a place in FILE.rec.

The formats: dmlc-core's recordio.h, and mxnet.recordio.IRHeader of MXNet 1.9.1.
"""

import contextlib
import os
import struct
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from jaxnets.data.dataset import DataError
from jaxnets.data.pictures import MAX_BYTES
from jaxnets.files import opened_regular
from jaxnets.naming import quoted

_MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

Label: TypeAlias = float | Float32[np.ndarray, " K"]


class Record(NamedTuple):
    """A label (one number or several) and its payload: an encoded picture, as a rule."""

    label: Label
    payload: bytes


class Reader:
    """The records of FILE.rec by the keys of FILE.idx; several threads may ask at once.

        with Reader("faces/train.rec") as reader:
            label, payload = reader[1]

    Attributes:
      keys: [N] int64, in ascending order.
      facts: name, size in bytes and time of modification of both files.

    Raises:
      DataError: from the constructor, if a file is missing or FILE.idx is damaged.
    """

    keys: Int64[np.ndarray, " N"]
    facts: tuple[tuple[str, int, int], ...]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path, self._lock = Path(path), threading.Lock()
        index = self._path.with_suffix(".idx")
        try:
            with opened_regular(index) as file:
                pairs = np.fromiter((int(number) for line in file for number in line.split()), np.int64).reshape(-1, 2)
        except OSError as error:
            raise DataError(f"{quoted(index)}: cannot be read ({error.strerror or error}).") from error
        except (ValueError, OverflowError) as error:
            raise DataError(f"{quoted(index)}: is not lines of a key and a place, two whole numbers each.") from error
        order = np.argsort(pairs[:, 0], kind="stable")
        self.keys, self._places = pairs[order].T.copy()
        if (np.diff(self.keys) == 0).any() or (pairs < 0).any():
            raise DataError(f"{quoted(index)}: has a key twice, or a number below zero; fetch the file again.")
        # Open until `close`, or until nobody has the reader: to open it for each record would cost a tenth of decoding.
        self._opened = contextlib.ExitStack()
        weakref.finalize(self, self._opened.close)
        try:
            self._file = self._opened.enter_context(opened_regular(self._path))
            self.facts = tuple(
                (each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in (self._path, index)
            )
        except OSError as error:
            raise DataError(f"{quoted(self._path)}: cannot be read ({error.strerror or error}).") from error

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, key: int) -> Record:
        """The record of a key.

        Raises:
          KeyError: if there is no such key.
          DataError: if the record is damaged or larger than `jaxnets.data.pictures.MAX_BYTES`.
        """
        return self._unpack(key, self._read(key, with_payload=True))

    def label(self, key: int) -> Label:
        """The label of a record; most often its payload is not read.

        Raises:
          KeyError, DataError: as for the record.
        """
        return self._unpack(key, self._read(key, with_payload=False)).label

    def where(self, key: int) -> str:
        """A record's name, for messages."""
        return f"{quoted(self._path)}: record {key}"

    def close(self) -> None:
        """Gives no more records."""
        self._opened.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, key: int, *, with_payload: bool) -> bytes:
        """The parts of a record, put together; without the payload, its beginning at least."""
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            raise KeyError(key)
        try:
            with self._lock:
                self._file.seek(int(self._places[at]))
                return self._parts(key, with_payload)
        except OSError as error:
            raise DataError(f"{self.where(key)} cannot be read ({error.strerror or error}).") from error

    def _parts(self, key: int, with_payload: bool) -> bytes:
        content, expected = bytearray(), (_WHOLE, _FIRST)
        while True:
            start = self._file.read(8)
            flag, length = divmod(int.from_bytes(start[4:], "little"), 2**29)
            if len(start) < 8 or start[:4] != _MAGIC or flag not in expected:
                raise DataError(f"{self.where(key)} is damaged: no part of one begins where it should.")
            if len(content) + length > MAX_BYTES:
                raise DataError(f"{self.where(key)} claims more than {MAX_BYTES:,} bytes.")
            if flag == _WHOLE and not with_payload:
                header = self._file.read(min(length, _HEADER.size))
                num_labels = int.from_bytes(header[:4], "little")
                return header + self._file.read(min(length - len(header), 4 * num_labels))
            part = self._file.read(length)
            if len(part) < length:
                raise DataError(f"{self.where(key)} is damaged: the file ends within it.")
            content += part
            if flag in (_WHOLE, _LAST):
                return bytes(content)
            content += _MAGIC
            self._file.seek(-length % 4, os.SEEK_CUR)
            expected = (_MIDDLE, _LAST)

    def _unpack(self, key: int, content: bytes) -> Record:
        if len(content) >= _HEADER.size:
            num_labels, label, _, _ = _HEADER.unpack_from(content)
            if not num_labels:
                return Record(label, content[_HEADER.size :])
            end = _HEADER.size + 4 * num_labels
            if end <= len(content):
                return Record(np.frombuffer(content[_HEADER.size : end], "<f4").astype(np.float32), content[end:])
        raise DataError(f"{self.where(key)} is damaged: it is shorter than its own header.")
