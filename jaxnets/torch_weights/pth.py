"""PyTorch's .pth files in both their formats, read without PyTorch; the pickles in them by `pickles`."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.torch_weights.pickles import checked, describe, natural

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what a file from before PyTorch 1.6 begins with
# What a damaged file makes of the reader of zip files, the reader of pickles, and NumPy.
DAMAGE = (
    *(ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, EOFError),
    *(struct.error, zipfile.BadZipFile),
)


def read_pth(path: Path) -> Any:
    """What a .pth file holds, in the zip format or in the one from before PyTorch 1.6; arrays are read-only.

    Raises:
      Refused: where it names what no weights need.
      DAMAGE: where it is none, or damaged.
      OSError: where it cannot be read.
    """
    data = path.read_bytes()
    return _read_zip(data) if data.startswith(b"PK\x03\x04") else _read_legacy(data)


def _read_zip(data: bytes) -> Any:
    """A pickle, data.pkl, and a record of bytes for each storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if sum(record.file_size for record in archive.infolist()) > len(data):
            raise ValueError("its records claim to be larger than the file")
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip file without the one data.pkl that PyTorch writes")
        [root] = roots
        order = archive.read(f"{root}byteorder").decode() if f"{root}byteorder" in names else "little"
        storages: dict[tuple[str, np.dtype], np.ndarray] = {}  # read once each, however many tensors share it

        def load(dtype: np.dtype, key: str, count: int) -> np.ndarray:
            if (key, dtype) not in storages:
                storages[key, dtype] = _elements(archive.read(f"{root}data/{key}"), dtype, order)
            return _first(count, storages[key, dtype])

        return describe(io.BytesIO(archive.read(f"{root}data.pkl")), load)


def _read_legacy(data: bytes) -> Any:
    """Pickles in a row: two numbers, the sizes of C's types, the object, its storages' keys; then the storages."""
    file = io.BytesIO(data)
    if describe(file, _no_storage) != MAGIC or describe(file, _no_storage) != PROTOCOL:
        raise ValueError("it is neither a zip file nor one from before PyTorch 1.6")
    describe(file, _no_storage)
    start = file.tell()
    dtypes: dict[str, np.dtype] = {}

    def expect(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        dtypes[key] = dtype
        return np.broadcast_to(np.zeros((), dtype), (count,))

    describe(file, expect)  # the object comes before its bytes, so it is read twice: the first time for what will come
    storages: dict[str, memoryview] = {}
    for key in describe(file, _no_storage):
        (count,) = struct.unpack("<q", file.read(8))
        size = natural(count) * dtypes[checked(key, str)].itemsize
        storages[key] = memoryview(data)[file.tell() : file.tell() + size]
        file.seek(size, io.SEEK_CUR)
    file.seek(start)
    return describe(file, lambda dtype, key, count: _first(count, _elements(storages[key], dtype, "little")))


def _no_storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
    raise ValueError("it has a tensor where none belongs")


def _elements(data: bytes | memoryview, dtype: np.dtype, order: str) -> np.ndarray:
    if order not in ("little", "big"):
        raise ValueError("its order of bytes is neither little nor big")
    bits = np.dtype(f"u{dtype.itemsize}")  # bfloat16 has no order of bytes of its own
    stored = bits.newbyteorder("<" if order == "little" else ">")
    return np.frombuffer(data, stored, len(data) // dtype.itemsize).astype(bits, copy=False).view(dtype)


def _first(count: int, elements: np.ndarray) -> np.ndarray:
    if count > len(elements):
        raise ValueError(f"a storage of {count} elements, {elements.dtype}, has only {len(elements)}")
    return elements[:count]
