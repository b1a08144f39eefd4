"""IDX, the format of MNIST and its relatives: the bundled MNIST, and any folder of four such files.

The format: two zero bytes, a byte for the element type (8 is uint8), a byte for the rank, each axis as a big-endian
uint32, then the elements. http://yann.lecun.com/exdb/mnist/

The bundled archives are the official ones. MNIST: Y. LeCun, C. Cortes, C. J. C. Burges; licence CC BY-SA 3.0.
"""

import gzip
import hashlib
import importlib.resources
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxnets.data.dataset import DataError, Dataset, Split

_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


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
    """Any MNIST-shaped folder: Fashion-MNIST, KMNIST, or one's own greyscale images of any height and width.

    The files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
    each plain or with .gz after it, and with a hyphen or a dot before "idx". IDX names no classes, so they are "0"
    to the greatest label found.

    Raises:
      DataError: if the folder or a file is missing, if a file is not one whole uint8 IDX array of its rank and
        nothing more, or if images and labels are not equally many.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory; give one that holds the four IDX files, as in 'idx:DIRECTORY'.")
    arrays = []
    for part in ("train", "t10k"):
        images_file = _find(folder, f"{part}-images", "idx3-ubyte")
        labels_file = _find(folder, f"{part}-labels", "idx1-ubyte")
        images = parse_idx(_read(images_file), rank=3, where=str(images_file))
        labels = parse_idx(_read(labels_file), rank=1, where=str(labels_file))
        if len(images) != len(labels):
            raise DataError(
                f"{labels_file}: {len(labels)} labels for the {len(images)} images of {images_file.name}; "
                "take both files from one release of the set."
            )
        arrays += [images, labels]
    return _dataset(*arrays, name=f"idx:{directory}")


def parse_idx(content: bytes, *, rank: int, where: str) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file's uncompressed bytes, without a copy and so read-only.

    Args:
      content: the whole file.
      rank: how many axes it must have; 3 for images [N, H, W], 1 for labels [N].
      where: the file's name, for the messages.

    Raises:
      DataError: if the content is not one whole uint8 array of that rank and nothing more.
    """
    header_size = 4 + 4 * rank
    magic = bytes([0, 0, 8, rank])
    if content[:4] != magic[: len(content)]:
        raise DataError(
            f"{where}: not a uint8 IDX file of rank {rank}, as it begins with bytes {content[:4].hex()} and not "
            f"{magic.hex()}; check that it is the file that its name says."
        )
    sizes = np.frombuffer(content[4:header_size], ">u4").tolist() if len(content) >= header_size else [0]
    expected = header_size + math.prod(sizes)
    if len(content) < expected:
        raise DataError(f"{where}: truncated, {len(content)} bytes of at least {expected}; fetch the file again.")
    if len(content) > expected:
        raise DataError(f"{where}: {len(content) - expected} bytes too many after the array; fetch the file again.")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(sizes)


def _find(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{separator}{kind}{suffix}" for suffix in ("", ".gz") for separator in "-."]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder / names[0]}: no such file, nor {', '.join(names[1:])}; put it there under one of these.")


def _read(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{file}: not a whole gzip archive ({error}); fetch the file again.") from error


def _dataset(
    train_images: UInt8[np.ndarray, "N H W"],
    train_labels: UInt8[np.ndarray, " N"],
    test_images: UInt8[np.ndarray, "M H W"],
    test_labels: UInt8[np.ndarray, " M"],
    *,
    name: str,
) -> Dataset:
    num_classes = 1 + max(int(labels.max(initial=0)) for labels in (train_labels, test_labels))
    return Dataset(
        train=Split(train_images[..., np.newaxis], train_labels.astype(np.int32)),
        test=Split(test_images[..., np.newaxis], test_labels.astype(np.int32)),
        classes=tuple(str(label) for label in range(num_classes)),
        name=name,
    )
