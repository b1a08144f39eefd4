"""Picture files decoded once and then kept, as one array that is mapped into memory."""

import hashlib
import json
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
from jaxtyping import UInt8

from jaxnets.data.dataset import DataError
from jaxnets.data.pictures import PictureFiles, decode

Progress: TypeAlias = Callable[[int, int], None]  # called with (done, total)

_FORMAT = 1  # of the cache; a change of what is decoded, or how, is a new number
_CHECKSUM_BYTES = 1 << 24


class Decoded(NamedTuple):
    """What became of picture files. Numbers in it are positions in `PictureFiles.names`.

    Attributes:
      images: [R, size, size, 3] uint8 of the R readable files, in their order; memory-mapped, read-only.
      unreadable: a sentence for each of the others.
      repeated: groups of files of the same bytes.
    """

    images: UInt8[np.ndarray, "R H W 3"]
    unreadable: dict[int, str]
    repeated: list[list[int]]


def decode_once(
    files: PictureFiles, size: int, *, accept_unreadable: bool, on_progress: Progress | None = None
) -> Decoded:
    """The pictures of these files, RGB of size×size, from the cache, or decoded into it.

    There is one entry for each folder and size, so that a folder that changes does not fill the disk: NAME.npy has the
    images and NAME.json the rest, with a checksum of the images. Both are replaced whole; an entry that is missing, for
    other files, or damaged is made anew. So is one with unreadable files, unless they are accepted, since the fault may
    be mended by now.

    Raises:
      DataError: if the entry cannot be written, for lack of space, say.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnets" / "folders"
    place = hashlib.sha256(str(files.root.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    stem = re.sub(r"[^\w-]", "_", files.root.resolve().name)[:50] or "root"
    images_path = folder / f"{stem}-{place}-{size}.npy"
    kept = _read(images_path, files.key)
    if kept is not None and (accept_unreadable or not kept.unreadable):
        return kept
    try:
        return _decode_into(images_path, files, size, on_progress)
    except OSError as error:
        raise DataError(
            f"{images_path}: decoded pictures cannot be kept there ({error.strerror or error}); name another folder by "
            "the environment's XDG_CACHE_HOME."
        ) from error


def _decode_into(path: Path, files: PictureFiles, size: int, on_progress: Progress | None) -> Decoded:
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = len(files) * size * size * 3, shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"{files.root}: {len(files)} pictures of {size}×{size} take {needed / 2**30:.1f} GiB, and {path.parent} "
            f"has {free / 2**30:.1f} GiB left; free some, name another folder by XDG_CACHE_HOME, or take less."
        )
    for left_behind in path.parent.glob(".*.partial"):  # by processes that were killed; others still write to theirs
        if time.time() - left_behind.stat().st_mtime > 3600:
            left_behind.unlink(missing_ok=True)
    unreadable: dict[int, str] = {}
    same_bytes = defaultdict(list)
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            _write_header(file, (len(files), size, size, 3))
            start, checksum = file.tell(), 0
            for index, (digest, outcome) in enumerate(_decoded(files, size)):
                same_bytes[digest].append(index)
                if isinstance(outcome, str):
                    unreadable[index] = outcome
                else:
                    checksum = zlib.crc32(outcome.data, checksum)
                    file.write(outcome.data)
                if on_progress is not None:
                    on_progress(index + 1, len(files))
            file.seek(0)
            _write_header(file, (len(files) - len(unreadable), size, size, 3))
            assert file.tell() == start, "NumPy leaves room in the header for the first axis to change"
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        repeated = [group for digest, group in same_bytes.items() if digest and len(group) > 1]
        _write_facts(
            path.with_suffix(".json"),
            {"format": _FORMAT, "key": files.key, "crc32": checksum, "unreadable": unreadable, "repeated": repeated},
        )
    except BaseException:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise
    return Decoded(_mapped(path), unreadable, repeated)


def _decoded(files: PictureFiles, size: int) -> Iterator[tuple[bytes, UInt8[np.ndarray, "H W 3"] | str]]:
    """Of each file in order: a digest of its content, and its pixels or the sentence that says why there are none."""
    import grain  # slow to import, and no other set needs it

    def one(index: int) -> tuple[bytes, UInt8[np.ndarray, "H W 3"] | str]:
        digest = b""
        try:
            content = files[index]
            digest = hashlib.blake2b(content, digest_size=16).digest()
            return digest, decode(content, (size, size, 3), where=str(files.root / files.names[index]))
        except DataError as error:
            return digest, str(error)

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    # Pillow's warnings are about what is odd in a file, and harmless. Set here, as worker threads share the filters.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield from grain.MapDataset.source(range(len(files))).map(one).to_iter_dataset(options)


def _read(images_path: Path, key: str) -> Decoded | None:
    """What is kept there for files of this key, or None where it is not all there, down to its last bit."""
    try:
        facts = json.loads(images_path.with_suffix(".json").read_text())
        if (facts["format"], facts["key"]) != (_FORMAT, key):
            return None
        images = _mapped(images_path)
        if _checksum(images) != facts["crc32"]:
            return None
        return Decoded(images, {int(index): said for index, said in facts["unreadable"].items()}, facts["repeated"])
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError):
        return None  # missing, or damaged in one way or another


def _mapped(path: Path) -> UInt8[np.ndarray, "R H W 3"]:
    images: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return images


def _checksum(images: UInt8[np.ndarray, "R H W 3"]) -> int:
    flat, checksum = images.reshape(-1), 0
    for start in range(0, flat.size, _CHECKSUM_BYTES):
        checksum = zlib.crc32(flat[start : start + _CHECKSUM_BYTES].data, checksum)
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
