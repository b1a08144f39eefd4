"""Pictures decoded once and then kept, as one array that is mapped into memory."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int32, UInt8

from jaxnets.data.dataset import DataError
from jaxnets.data.decoding import decode
from jaxnets.data.mapped import open_mapped, pieces
from jaxnets.data.pictures import Pictures

Progress: TypeAlias = Callable[[int, int], None]  # called with (done, total)

_FORMAT = 2  # of the cache; a change of what is decoded, or how, is a new number


class Decoded(NamedTuple):
    """What became of pictures.

    Attributes:
      images: [R, H, W, C] uint8 of the R readable ones, in their order; memory-mapped, read-only.
      labels: [R] int32.
      unreadable: a sentence for each of the others, by its index.
      repeated: groups of indices of the same bytes.
    """

    images: UInt8[np.ndarray, "R H W C"]
    labels: Int32[np.ndarray, " R"]
    unreadable: dict[int, str]
    repeated: list[list[int]]


class Seen(NamedTuple):
    """What became of pictures that were decoded to see whether they can be, and let go: as of `Decoded`."""

    labels: Int32[np.ndarray, " R"]
    unreadable: dict[int, str]
    repeated: list[list[int]]


def look_through_once(pictures: Pictures, *, on_progress: Progress | None = None) -> Seen:
    """Which of these pictures cannot be read, and which are there twice; what was found is kept if all can be read.

    Args:
      pictures: of one place.
      on_progress: called with (done, total) while they are looked at, and not at all where that is known already.
    """
    path = _entry(pictures).with_suffix(".seen.json")
    try:
        facts = json.loads(path.read_text())
        if (facts["format"], facts["key"]) == (_FORMAT, pictures.key):
            return Seen(np.array(facts["labels"], np.int32), {}, facts["repeated"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # missing, or damaged in one way or another
    labels: list[int] = []
    unreadable: dict[int, str] = {}
    same_bytes = defaultdict(list)
    for index, (digest, outcome) in enumerate(_decoded(pictures, None)):
        same_bytes[digest].append(index)
        if isinstance(outcome, str):
            unreadable[index] = outcome
        else:
            labels.append(outcome[1])
        if on_progress is not None:
            on_progress(index + 1, len(pictures))
    repeated = _repeated(same_bytes)
    if not unreadable:
        with contextlib.suppress(OSError):  # it is looked at again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_facts(path, {"format": _FORMAT, "key": pictures.key, "labels": labels, "repeated": repeated})
    return Seen(np.array(labels, np.int32), unreadable, repeated)


def decode_once(
    pictures: Pictures,
    size: tuple[int, int],
    *,
    own_size: bool,
    accept_unreadable: bool,
    on_progress: Progress | None = None,
) -> Decoded:
    """These pictures from the cache, or decoded into it.

    There is one entry for each place and size, so that a folder that changes does not fill the disk: NAME.npy has the
    images and NAME.json the rest, with a checksum of the images. Both are replaced whole; an entry that is missing, for
    other pictures, or damaged is made anew. So is one with unreadable pictures, unless they are accepted, since the
    fault may be mended by now.

    Args:
      pictures: of one place.
      size: (H, W) to which they are scaled.
      own_size: refuse those of another size, and scale none.
      accept_unreadable: take an entry that was made with some left out.
      on_progress: called with (done, total) while pictures are decoded.

    Raises:
      DataError: if the entry cannot be written, for lack of space, say, or pictures differ from `own_size`.
    """
    entry = _entry(pictures)
    images_path = entry.with_name(f"{entry.name}-{size[0]}x{size[1]}{'-own' if own_size else ''}.npy")
    kept = _read(images_path, pictures.key)
    if kept is not None and (accept_unreadable or not kept.unreadable):
        return kept
    try:
        return _decode_into(images_path, pictures, size, own_size, on_progress)
    except OSError as error:
        raise DataError(
            f"{images_path}: decoded pictures cannot be kept there ({error.strerror or error}); name another folder by "
            "the environment's XDG_CACHE_HOME."
        ) from error


def _entry(pictures: Pictures) -> Path:
    """Where what is kept of a place is, but for the ending."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnets" / "pictures"
    place = pictures.place.resolve()
    digits = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()[:8]
    stem = re.sub(r"[^\w-]", "_", "-".join(place.parts[-2:]))[-50:]
    return folder / f"{stem}-{digits}"


def _decode_into(
    path: Path, pictures: Pictures, size: tuple[int, int], own_size: bool, on_progress: Progress | None
) -> Decoded:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, pictures.channels)
    needed, free = len(pictures) * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"{pictures.place}: {len(pictures)} pictures of {size[0]}×{size[1]} take {needed / 2**30:.1f} GiB, and "
            f"{path.parent} has {free / 2**30:.1f} GiB left; free some, name another folder by XDG_CACHE_HOME, take "
            "less, or decode them as they are needed (--stream, jaxnets.data.streaming)."
        )
    for left_behind in path.parent.glob(".*.partial"):  # by processes that were killed; others still write to theirs
        if time.time() - left_behind.stat().st_mtime > 3600:
            left_behind.unlink(missing_ok=True)
    unreadable: dict[int, str] = {}
    labels: list[int] = []
    same_bytes = defaultdict(list)
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            _write_header(file, (len(pictures), *shape))
            start, checksum = file.tell(), 0
            for index, (digest, outcome) in enumerate(_decoded(pictures, None if own_size else size)):
                same_bytes[digest].append(index)
                if isinstance(outcome, str):
                    unreadable[index] = outcome
                else:
                    pixels, label = outcome
                    if pixels.shape != shape:
                        raise DataError(
                            f"{pictures.where(index)} has another size than the first, {pixels.shape} and not {shape} "
                            "(H, W, C); give the size that all are to be brought to."
                        )
                    checksum = zlib.crc32(pixels.data, checksum)
                    file.write(pixels.data)
                    labels.append(label)
                if on_progress is not None:
                    on_progress(index + 1, len(pictures))
            file.seek(0)
            _write_header(file, (len(labels), *shape))
            assert file.tell() == start, "NumPy leaves room in the header for the first axis to change"
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        repeated = _repeated(same_bytes)
        facts = {"labels": labels, "unreadable": unreadable, "repeated": repeated}
        _write_facts(path.with_suffix(".json"), {"format": _FORMAT, "key": pictures.key, "crc32": checksum, **facts})
    except BaseException:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise
    return Decoded(open_mapped(path), np.array(labels, np.int32), unreadable, repeated)


def _repeated(same_bytes: dict[bytes, list[int]]) -> list[list[int]]:
    return [group for digest, group in same_bytes.items() if digest and len(group) > 1]


def _decoded(
    pictures: Pictures, size: tuple[int, int] | None
) -> Iterator[tuple[bytes, tuple[UInt8[np.ndarray, "H W C"], int] | str]]:
    """Of each: a digest of its content, and its pixels and label or a sentence that says why there are none."""
    import grain  # slow to import, and no other set needs it

    shape = (*(size or (None, None)), pictures.channels)

    def one(index: int) -> tuple[bytes, tuple[UInt8[np.ndarray, "H W C"], int] | str]:
        digest = b""
        try:
            content, label = pictures[index]
            digest = hashlib.blake2b(content, digest_size=16).digest()
            return digest, (decode(content, shape, where=pictures.where(index)), label)
        except DataError as error:
            return digest, str(error)

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    # Pillow's warnings are about what is odd in a file, and harmless. Set here, as worker threads share the filters.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield from grain.MapDataset.source(range(len(pictures))).map(one).to_iter_dataset(options)


def _read(images_path: Path, key: str) -> Decoded | None:
    """What is kept there for pictures of this key, or None where it is not all there, down to its last bit."""
    try:
        facts = json.loads(images_path.with_suffix(".json").read_text())
        if (facts["format"], facts["key"]) != (_FORMAT, key):
            return None
        images, labels = open_mapped(images_path), np.array(facts["labels"], np.int32)
        if len(labels) != len(images) or _checksum(images) != facts["crc32"]:
            return None
        unreadable = {int(index): said for index, said in facts["unreadable"].items()}
        return Decoded(images, labels, unreadable, facts["repeated"])
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError):
        return None  # missing, or damaged in one way or another


def _checksum(images: UInt8[np.ndarray, "R H W C"]) -> int:
    checksum = 0
    for piece in pieces(images):
        checksum = zlib.crc32(piece.data, checksum)
    return checksum


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _write_facts(path: Path, facts: dict[str, Any]) -> None:
    partial = path.with_name(f".{os.getpid()}.{path.name}.partial")
    try:
        partial.write_text(json.dumps(facts))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
