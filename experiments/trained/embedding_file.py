"""Names and unit embeddings in one file, .npz or .safetensors, written and read in bounded memory.

Of N pictures, `embeddings` is float32 [N, D]. `names` is an array of N strings in an .npz; in a .safetensors, which has
no strings, it is uint8 [N, W], UTF-8 filled up with zeros. Their origin is told as JSON: in the array
`about`, or in the metadata of that name.
"""

import contextlib
import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32

from experiments.run.options import Inputs
from experiments.run.terminal import UserError
from experiments.trained.embeddings import Count
from jaxnets.files import replacing
from jaxnets.naming import quoted

KINDS = (".npz", ".safetensors")
_LARGEST_HEADER = 2**24


class About(NamedTuple):
    """The origin of embeddings: a run or file, its network and inputs as they were named, a digest of the weights.

    Names of pictures are relative to `folder`.
    """

    source: str
    model: str | None
    inputs: Inputs
    weights: str
    folder: str


class EmbeddingFile(NamedTuple):
    """An opened file: `embeddings` are mapped, `name` reads the name of a row, `about` tells their origin."""

    embeddings: Float32[np.ndarray, "N D"]
    name: Callable[[int], str]
    about: About


def write(
    path: Path,
    count: Count,
    dimensions: int,
    blocks: Iterator[Float32[np.ndarray, "B D"]],
    names: Iterator[str],
    about: About,
) -> None:
    """Writes the file whole or not at all, as its ending says.

    Args:
      path: ends in one of `KINDS`.
      count: of the pictures.
      dimensions: D.
      blocks: embeddings, all of which are taken before the first name.
      names: in the same order.
      about: the origin of the embeddings.

    Raises:
      OSError: where it cannot be written.
    """
    said = json.dumps(about._asdict())
    with replacing(path) as file:
        (_write_npz if path.suffix == ".npz" else _write_safetensors)(file, count, dimensions, blocks, names, said)


def _write_npz(
    file: IO[bytes],
    count: Count,
    dimensions: int,
    blocks: Iterator[Float32[np.ndarray, "B D"]],
    names: Iterator[str],
    about: str,
) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            member.write(_npy_header("<f4", (count.pictures, dimensions)))
            for block in blocks:
                member.write(block.astype("<f4").tobytes())
        with archive.open("names.npy", "w", force_zip64=True) as member:
            member.write(_npy_header(f"<U{count.characters}", (count.pictures,)))
            for name in names:
                member.write(name.encode("utf-32-le", "surrogatepass").ljust(4 * count.characters, b"\0"))
        with archive.open("about.npy", "w") as member:
            np.lib.format.write_array(member, np.array(about), allow_pickle=False)


def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _write_safetensors(
    file: IO[bytes],
    count: Count,
    dimensions: int,
    blocks: Iterator[Float32[np.ndarray, "B D"]],
    names: Iterator[str],
    about: str,
) -> None:
    middle = 4 * count.pictures * dimensions
    end = middle + count.pictures * count.octets
    tensors = {
        "embeddings": {"dtype": "F32", "shape": [count.pictures, dimensions], "data_offsets": [0, middle]},
        "names": {"dtype": "U8", "shape": [count.pictures, count.octets], "data_offsets": [middle, end]},
    }
    header = json.dumps({"__metadata__": {"about": about}, **tensors}).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    file.write(struct.pack("<Q", len(header)) + header)
    for block in blocks:
        file.write(block.astype("<f4").tobytes())
    for name in names:
        file.write(os.fsencode(name).ljust(count.octets, b"\0"))


def read(path: Path) -> EmbeddingFile:
    """Opens a file that `write` wrote.

    Raises:
      UserError: for a file of another kind, or a damaged one.
      OSError: where it cannot be read.
    """
    if path.suffix not in KINDS:
        raise UserError(
            f"{quoted(path)} ends in neither {' nor '.join(KINDS)}, the files that experiments.embed writes"
        )
    with _damage_told(path):
        found = (_read_npz if path.suffix == ".npz" else _read_safetensors)(path)

    def name(row: int) -> str:
        with _damage_told(path):
            return found.name(row)

    return found._replace(name=name)


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # each part of the formats has its own for damage
        why = quoted(error, 100) or type(error).__name__
        raise UserError(f"{quoted(path)} is no file of experiments.embed, or damaged ({why}): make it anew") from error


def _read_npz(path: Path) -> EmbeddingFile:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        if archive.getinfo("about.npy").file_size > _LARGEST_HEADER:
            raise ValueError("its description of the embeddings is too long")
        about = np.lib.format.read_array(io.BytesIO(archive.read("about.npy")), allow_pickle=False)
        embeddings, names = (_mapped_member(path, file, archive.getinfo(f"{n}.npy")) for n in ("embeddings", "names"))
    if names.dtype.kind != "U" or names.shape != embeddings.shape[:1]:
        raise ValueError("its names do not fit its embeddings")
    return _opened(embeddings, lambda row: str(names[row]), str(about))


def _mapped_member(path: Path, file: IO[bytes], info: zipfile.ZipInfo) -> np.ndarray:
    """An array of an .npz, which is not compressed, mapped where it lies in the file."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    file.seek(info.header_offset)
    local = struct.unpack("<4s5H3I2H", file.read(30))
    if local[0] != b"PK\x03\x04":
        raise ValueError("a header of the archive is not where it should be")
    file.seek(local[-2] + local[-1], os.SEEK_CUR)
    start = file.tell()
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it has arrays of another version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    offset = file.tell()
    if is_fortran or dtype.hasobject or offset - start + dtype.itemsize * math.prod(shape) != info.file_size:
        raise ValueError(f"its {quoted(info.filename)} is not as it was written")
    return np.memmap(path, dtype, "r", offset, shape)


def _read_safetensors(path: Path) -> EmbeddingFile:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LARGEST_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))
        size = os.fstat(file.fileno()).st_size - 8 - length

    def mapped(name: str, kind: str, dtype: str) -> np.ndarray:
        entry = header[name]
        rows, columns = entry["shape"]
        start, end = entry["data_offsets"]
        if entry["dtype"] != kind or not 0 <= start <= end <= size or end - start != rows * columns * int(dtype[-1]):
            raise ValueError(f"its {name} are not as they were written")
        return np.memmap(path, dtype, "r", 8 + length + start, (rows, columns))

    embeddings, names = mapped("embeddings", "F32", "<f4"), mapped("names", "U8", "|u1")
    if len(names) != len(embeddings):
        raise ValueError("its names do not fit its embeddings")
    return _opened(
        embeddings, lambda row: os.fsdecode(names[row].tobytes().rstrip(b"\0")), header["__metadata__"]["about"]
    )


def _opened(embeddings: np.ndarray, name: Callable[[int], str], about: str) -> EmbeddingFile:
    said = About(**json.loads(about))
    texts = (said.source, said.weights, said.folder, said.model or "")
    if not all(isinstance(text, str) for text in texts) or said.inputs not in get_args(Inputs):
        raise ValueError("it does not describe its embeddings")
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or not embeddings.size:
        raise ValueError("it has no embeddings")
    return EmbeddingFile(embeddings, name, said)
