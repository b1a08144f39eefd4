"""Tars as WebDataset has them: each picture, KEY.jpg, beside its class, KEY.cls, in one file or in many (shards).

A tar is blocks of 512 bytes: a header for each member, and its content padded to a whole block; zeros end it. Headers
alone are looked at to find the members, so that a set is as quick to open as its files are to skip through.

Python's tarfile would not do: it takes a damaged header for the end of the file, so that the rest of the pictures would
be missing without a word, and its older versions go round in circles on a negative size.

The formats: POSIX.1-2001 "pax Interchange Format" and "ustar", GNU's long names and large numbers; WebDataset's names,
https://github.com/webdataset/webdataset: a key ends at the first dot of a name, after the last slash.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxnets.data.dataset import DataError
from jaxnets.files import opened_regular
from jaxnets.naming import quoted

_BLOCK = 512
_MAX_NAME = 2**16  # bytes of the extra headers that a member may have
_REGULAR = (b"0", b"7", b"\0")  # kinds of headers
_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL = b"L", b"K", b"x", b"g"


class Member(NamedTuple):
    """A regular file in a tar: its content begins at byte `start`, and has `size` bytes."""

    name: str
    start: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """The regular files in a tar, in its order; folders, links and all other kinds are passed over.

    Raises:
      DataError: if it cannot be read, is no tar or a compressed one, or is damaged.
    """
    try:
        with opened_regular(path) as file:
            yield from _members(file, quoted(path))
    except OSError as error:
        raise DataError(f"{quoted(path)}: cannot be read ({error.strerror or error}).") from error


def read(path: Path, start: int, size: int) -> bytes:
    """The content of a member.

    Raises:
      DataError: if it cannot be read, or is no longer there.
    """
    try:
        with opened_regular(path) as file:
            file.seek(start)
            content = file.read(size)
    except OSError as error:
        raise DataError(f"{quoted(path)}: cannot be read ({error.strerror or error}).") from error
    if len(content) < size:
        raise DataError(f"{quoted(path)}: has become shorter; start again.")
    return content


def _members(file: io.BufferedReader, where: str) -> Iterator[Member]:
    at, end = 0, file.seek(0, io.SEEK_END)
    extra: dict[str, str] = {}  # of the next member, from headers before its own
    while at < end:
        header = _at(file, at, _BLOCK)
        if not any(header):
            return
        if len(header) < _BLOCK or not _is_header(header):
            what = "is damaged: no member begins where one should" if at else "is no tar, or a compressed one"
            raise DataError(f"{where}: {what} (at byte {at:,}).")
        kind, size = header[156:157], _number(header[124:136])
        if "size" in extra and kind in _REGULAR:
            size = int(extra["size"]) if extra["size"].isdecimal() else None
        start = at + _BLOCK
        if size is None or start + size > end:
            raise DataError(f"{where}: is damaged: the file ends within a member (at byte {at:,}).")
        at = start + -(-size // _BLOCK) * _BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL):
            if size > _MAX_NAME:
                raise DataError(f"{where}: is damaged: a name takes {size:,} bytes (at byte {start:,}).")
            content = _at(file, start, size)
            if kind == _LONG_NAME:
                extra["path"] = _text(content)
            elif kind == _PAX:
                extra |= _pax(content)
            continue
        if kind in _REGULAR:
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            name = _text(header[:100])
            yield Member(extra.get("path") or (f"{prefix}/{name}" if prefix else name), start, size)
        extra = {}


def _at(file: io.BufferedReader, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _is_header(header: bytes) -> bool:
    """Whether its checksum holds, of bytes without a sign, or with one as some old programs took them."""
    others = header[:148] + b" " * 8 + header[156:]
    with_sign = sum(others) - 256 * sum(byte > 127 for byte in others)
    return _number(header[148:156]) in (sum(others), with_sign)


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's binary of a number that is too large for these; None for neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _pax(content: bytes) -> dict[str, str]:
    """The entries "LENGTH KEY=VALUE\n" of an extended header, up to the first that is none."""
    found: dict[str, str] = {}
    at = 0
    while entry := re.match(rb"(\d{1,6}) ([^=]+)=", content[at : at + 300]):
        length = int(entry[1])
        value = content[at + entry.end() : at + length - 1]
        found[entry[2].decode(errors="replace")] = value.decode(errors="surrogateescape")
        if length <= entry.end():
            break
        at += length
    return found


def _text(content: bytes) -> str:
    return content.split(b"\0", 1)[0].decode(errors="surrogateescape")
