"""PyTorch's .pth files in both their formats, read without PyTorch; the pickles in them by `pickles`."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.files import opened_regular
from jaxnets.naming import quoted
from jaxnets.pickles import checked, describe, natural
from jaxnets.torch_weights.tensors import Tensors

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # a file from before PyTorch 1.6 begins with these
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip's record: signature, lengths of the name and of extra fields
LARGEST_FILE, LARGEST_PICKLE = 4 * 2**30, 2**28  # bytes
# Exceptions that the readers of zip files and pickles, and NumPy, raise at damage.
DAMAGE = (
    *(ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, EOFError, MemoryError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


def read_pth(path: Path) -> Any:
    """The content of a .pth file, in the zip format or in the one from before PyTorch 1.6; arrays are read-only.

    Raises:
      DAMAGE: where it is none, or damaged.
      OSError: where it cannot be read.
    """
    with opened_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE // 2**30} GiB")
        begins = file.read(4)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickletools, about escapes in damaged text
            return _read_zip(file, size) if begins == b"PK\x03\x04" else _read_legacy(file, size)


def _read_zip(file: io.BufferedReader, size: int) -> Any:
    """A pickle, data.pkl, and a record of bytes for each storage."""
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("it is a zip file without the one data.pkl that PyTorch writes")
    [root] = roots
    if f"{root}constants.pkl" in records or any(name.startswith(f"{root}code/") for name in records):
        raise ValueError("it is a TorchScript program: in PyTorch, save the state_dict() of what torch.jit.load gives")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
        raise ValueError("its records are compressed, which PyTorch's are not: unzip it, and zip it with `zip -0`")
    if sum(max(record.file_size, record.compress_size) for record in records.values()) > size:
        raise ValueError("its records claim to be larger than the file")

    def content(name: str, limit: int = LARGEST_FILE) -> bytes:
        if name not in records:
            raise ValueError(f"its record {quoted(name)} is missing")
        return _record(file, records[name], limit)

    order = content(f"{root}byteorder", 16).decode() if f"{root}byteorder" in records else "little"
    storages: dict[str, np.ndarray] = {}  # read once each, however many tensors share it

    def load(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if key not in storages:
            storages[key] = _elements(content(f"{root}data/{key}"), dtype, order)
        if storages[key].dtype != dtype:
            raise ValueError(f"its storage {quoted(key)} is of two dtypes")
        return _first(count, storages[key])

    pickled = content(f"{root}data.pkl", LARGEST_PICKLE)
    tensors = Tensors(load, len(pickled))
    return describe(io.BytesIO(pickled), tensors.call, tensors.stored)


def _record(file: io.BufferedReader, record: zipfile.ZipInfo, limit: int) -> bytes:
    """A stored record's bytes. PyTorch may leave out checksums, which are then 0."""
    if record.file_size != record.compress_size or record.flag_bits & 1 or record.file_size > limit:
        raise ValueError(f"its record {quoted(record.filename)} is encrypted, or its sizes are wrong")
    file.seek(max(record.header_offset, 0))
    signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError(f"its record {quoted(record.filename)} is not where the file says")
    file.seek(name_length + extra_length, io.SEEK_CUR)
    content = file.read(record.file_size)
    if len(content) != record.file_size or (record.CRC and zlib.crc32(content) != record.CRC):
        raise ValueError(f"its record {quoted(record.filename)} is damaged: its checksum is another")
    return content


def _read_legacy(file: io.BufferedReader, size: int) -> Any:
    """Pickles in a row: two numbers, the sizes of C's types, the object, its storages' keys; then the storages."""
    pickles = io.BytesIO(file.read(LARGEST_PICKLE))
    numbers = Tensors(_no_storage, size)

    def next_pickle(load: Callable[[np.dtype, str, int], np.ndarray] | None = None) -> Any:
        tensors = numbers if load is None else Tensors(load, size)
        return describe(pickles, tensors.call, tensors.stored)

    if next_pickle() != MAGIC or next_pickle() != PROTOCOL:
        raise ValueError("it is neither a zip file nor one from before PyTorch 1.6")
    next_pickle()
    start = pickles.tell()
    promised: dict[str, np.ndarray] = {}

    def expect(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if key not in promised:
            if count * dtype.itemsize > size - sum(storage.nbytes for storage in promised.values()):
                raise ValueError("its storages claim to be larger than the file")
            promised[key] = np.zeros(count, dtype)  # memory that is not written to takes no room
        if promised[key].dtype != dtype:
            raise ValueError(f"its storage {quoted(key)} is of two dtypes")
        return _first(count, promised[key])

    next_pickle(expect)  # the object comes before its bytes, so it is read twice: the first time for the dtypes
    keys = next_pickle()
    file.seek(pickles.tell())
    storages: dict[str, bytes] = {}
    for key in checked(keys, list):
        (count,) = struct.unpack("<q", file.read(8))
        if checked(key, str) not in promised:
            raise ValueError(f"its storage {quoted(key)} has elements that NumPy has no dtype for")
        length = natural(count) * promised[key].itemsize
        if key in storages or length > size - file.tell():
            raise ValueError(f"its storage {quoted(key)} is twice in it, or ends after the file")
        storages[key] = file.read(length)
    pickles.seek(start)
    return next_pickle(lambda dtype, key, count: _first(count, _elements(storages[key], dtype, "little")))


def _no_storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
    raise ValueError("it has a tensor where none belongs")


def _elements(data: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    if order not in ("little", "big"):
        raise ValueError("its order of bytes is neither little nor big")
    bits = np.dtype(f"u{dtype.itemsize // (2 if dtype.kind == 'c' else 1)}")  # bfloat16 has no order of bytes
    stored = bits.newbyteorder("<" if order == "little" else ">")
    elements = np.frombuffer(data, stored, len(data) // dtype.itemsize * dtype.itemsize // bits.itemsize)
    return elements.astype(bits, copy=False).view(dtype)


def _first(count: int, elements: np.ndarray) -> np.ndarray:
    if count > len(elements):
        raise ValueError(f"a storage of {count} elements, {elements.dtype}, has only {len(elements)}")
    return elements[:count]
