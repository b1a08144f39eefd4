"""Files that are replaced whole, and files that are read within bounds."""

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_ABANDONED_AFTER = 3600  # seconds since a partial file was last written to


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file by one of this content: a killed process leaves the old file or the new one, never a part.

    Raises:
      OSError: where it cannot be written; the old file is left as it was.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, written under a name of its own, that replaces `path` when the block ends, and is flushed before.

    Its folder is made where there is none. A block that raises leaves `path` as it was. Partial files that killed
    processes left in the folder more than an hour ago are removed.

    Raises:
      OSError: where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_behind in path.parent.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - left_behind.stat().st_mtime > _ABANDONED_AFTER:
                left_behind.unlink()
    partial = path.with_name(f".{path.name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def opened_regular(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """A file open for reading that has an end: a device, a pipe or a folder is refused at once, and not waited for.

    Raises:
      OSError: where it is not there, is no regular file, or may not be read.
    """
    # Without O_NONBLOCK, opening a pipe that nothing writes to waits for ever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
        yield file


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
      OSError: as `opened_regular`, and where the file is larger.
    """
    with opened_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / 2**20:,.0f} MiB", os.fspath(path))
    return content
