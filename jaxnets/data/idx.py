"""IDX, the format of MNIST and its relatives: the bundled MNIST, and any folder of four such files.

The format: two zero bytes, a byte for the element type (8 is uint8), a byte for the rank, each axis as a big-endian
uint32, then the elements. http://yann.lecun.com/exdb/mnist/

The bundled archives are the official ones. MNIST: Y. LeCun, C. Cortes, C. J. C. Burges; licence CC BY-SA 3.0.
"""

import gzip
import hashlib
import importlib.resources
import io
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxnets.data.classes import count_classes
from jaxnets.data.dataset import DataError, Dataset, Split
from jaxnets.data.place import existing_folder
from jaxnets.files import opened_regular
from jaxnets.naming import quoted

_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_MAX_UNPACKED = 2**30  # bytes of a compressed array: a small archive can unpack to anything
_EMNIST = "emnist-*-train-images-idx3-ubyte*"


def load_mnist() -> Dataset:
    """MNIST from the archives that come with this package: 60,000 and 10,000 images [28, 28, 1], classes "0" to "9".

    Raises:
      DataError: if an archive is missing or is not the official one, byte for byte.
    """
    folder = importlib.resources.files("jaxnets.data") / "mnist"
    arrays = []
    for name, sha256 in _MNIST_SHA256.items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: this bundled MNIST archive is missing; reinstall jaxnets.")
        archive = file.read_bytes()
        if hashlib.sha256(archive).hexdigest() != sha256:
            raise DataError(f"{file}: this bundled MNIST archive is corrupt (its SHA-256 differs); reinstall jaxnets.")
        arrays.append(parse_idx(gzip.decompress(archive), rank=3 if "idx3" in name else 1, where=str(file)))
    return _dataset(*arrays, name="mnist")


def load_folder(directory: str) -> Dataset:
    """Any MNIST-shaped folder: Fashion-MNIST, KMNIST, EMNIST, or one's own greyscale images of any height and width.

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
    each plain or with .gz after it, and with a hyphen or a dot before "idx"; or the files of one split of EMNIST, such
    as emnist-letters-train-images-idx3-ubyte and emnist-letters-test-images-idx3-ubyte. Where a folder has several of
    its splits, DIRECTORY/emnist-letters means that one. EMNIST stores columns for rows, which is undone here.

    IDX names no classes: their names are the training split's labels, "1" to "26" for EMNIST's letters. `notes` names
    labels between them that are left out.

    Raises:
      DataError: if the folder or a file is missing, if a file is not one whole uint8 IDX array of its rank and nothing
        more, if it is compressed and larger than 1 GiB, or if images and labels are not equally many.
    """
    folder, prefix = _place(directory)
    try:
        prefix = prefix or _emnist_prefix(folder)
        parts = ("train", "t10k") if prefix is None else (f"{prefix}-train", f"{prefix}-test")
        arrays = [array for part in parts for array in _read_split(folder, part)]
    except OSError as error:
        raise DataError(f"{quoted(error.filename or folder)}: cannot be read ({error.strerror or error}).") from error
    if prefix is not None:
        arrays[0], arrays[2] = (np.ascontiguousarray(arrays[which].transpose(0, 2, 1)) for which in (0, 2))
    return _dataset(*arrays, name=f"idx:{directory}")


def _place(directory: str) -> tuple[Path, str | None]:
    """The folder, and the beginning of the names of EMNIST's files where the directory's name ends with it."""
    parent, _, last = directory.rpartition("/")
    if re.fullmatch(r"emnist-\w+", last) and not os.path.isdir(directory):
        return existing_folder(parent or ".", f"give one that holds the files of {last}"), last
    return existing_folder(directory, "give one that holds the four IDX files, as in 'idx:DIRECTORY'"), None


def _emnist_prefix(folder: Path) -> str | None:
    """The beginning of the names of EMNIST's files in the folder; None where MNIST's are there, or neither."""
    if any(folder.glob("train-images?idx3-ubyte*")):
        return None
    prefixes = sorted({file.name.partition("-train-images")[0] for file in folder.glob(_EMNIST)})
    if len(prefixes) > 1:
        raise DataError(
            f"{quoted(folder)}: has the files of {', '.join(map(quoted, prefixes[:6]))}; say of which, as in "
            f"'idx:{quoted(folder / prefixes[0])}'."
        )
    return prefixes[0] if prefixes else None


def _read_split(folder: Path, part: str) -> tuple[UInt8[np.ndarray, "N H W"], UInt8[np.ndarray, " N"]]:
    images_file = _find(folder, f"{part}-images", "idx3-ubyte")
    labels_file = _find(folder, f"{part}-labels", "idx1-ubyte")
    images, labels = _read(images_file, rank=3), _read(labels_file, rank=1)
    if len(images) != len(labels):
        raise DataError(
            f"{quoted(labels_file)}: {len(labels)} labels for the {len(images)} images of {quoted(images_file.name)}; "
            "take both files from one release of the set."
        )
    return images, labels


def _find(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{separator}{kind}{suffix}" for suffix in ("", ".gz") for separator in "-."]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{quoted(folder / names[0])}: no such file, nor {quoted(', '.join(names[1:]))}; put it there under one of "
        "these names."
    )


def _read(file: Path, *, rank: int) -> UInt8[np.ndarray, "..."]:
    with opened_regular(file) as stored:
        if file.suffix != ".gz":
            return _parse(stored, os.fstat(stored.fileno()).st_size, rank, quoted(file))
        try:
            with gzip.GzipFile(fileobj=stored) as unpacked:
                return _parse(unpacked, None, rank, quoted(file))
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{quoted(file)}: not a whole gzip archive ({error}); fetch the file again.") from error


def parse_idx(content: bytes, *, rank: int, where: str) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file's uncompressed bytes, read-only.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), rank=1, where="three labels").tolist()
    [7, 8, 9]

    Args:
      content: the whole file.
      rank: how many axes it must have; 3 for images [N, H, W], 1 for labels [N].
      where: the file's name, for the messages.

    Raises:
      DataError: if the content is not one whole uint8 array of that rank and nothing more.
    """
    return _parse(io.BytesIO(content), len(content), rank, where)


def _parse(file: io.BufferedIOBase, length: int | None, rank: int, where: str) -> UInt8[np.ndarray, "..."]:
    """The array in a file of `length` bytes; None means an archive, which is unpacked as far as its header promises."""
    header_size = 4 + 4 * rank
    header = file.read(header_size)
    magic = bytes([0, 0, 8, rank])
    if header[:4] != magic[: len(header)]:
        raise DataError(
            f"{where}: not a uint8 IDX file of rank {rank}, as it begins with bytes {header[:4].hex()} and not "
            f"{magic.hex()}; check that it is the file that its name says."
        )
    sizes = np.frombuffer(header[4:], ">u4").tolist() if len(header) == header_size else [0]
    expected = header_size + math.prod(sizes)
    if length is None and expected > _MAX_UNPACKED:
        raise DataError(
            f"{where}: claims {expected:,} bytes, of which at most {_MAX_UNPACKED:,} are unpacked; unpack it with "
            "gunzip to have it read."
        )
    if length is None or length == expected:
        content = file.read(expected - header_size)
        length = len(header) + len(content) + len(file.read(1))  # at its end an archive's checksum is compared
    if length < expected:
        raise DataError(f"{where}: truncated, {length:,} bytes of at least {expected:,}; fetch the file again.")
    if length > expected:
        raise DataError(f"{where}: has more than the {expected:,} bytes that it claims; fetch the file again.")
    try:
        return np.frombuffer(content, np.uint8).reshape(sizes)
    except (ValueError, OverflowError) as error:  # no elements, and other axes beyond all memory
        raise DataError(f"{where}: claims an array of {' × '.join(map(str, sizes))}, which cannot be.") from error


def _dataset(
    train_images: UInt8[np.ndarray, "N H W"],
    train_labels: UInt8[np.ndarray, " N"],
    test_images: UInt8[np.ndarray, "M H W"],
    test_labels: UInt8[np.ndarray, " M"],
    *,
    name: str,
) -> Dataset:
    highest = max(int(labels.max(initial=0)) for labels in (train_labels, test_labels))
    counted = count_classes(train_labels, test_labels, tuple(map(str, range(highest + 1))), name=quoted(name))
    kept = slice(None) if len(counted.kept) == len(test_labels) else counted.kept
    return Dataset(
        train=Split(train_images[..., np.newaxis], counted.train_labels),
        test=Split(test_images[kept][..., np.newaxis], counted.test_labels),
        classes=counted.classes,
        name=name,
        notes=counted.notes,
    )
