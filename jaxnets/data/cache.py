"""Pictures decoded once and then kept, as one array that is mapped into memory."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxnets.data.dataset import DataError
from jaxnets.data.mapped import map_images, pieces
from jaxnets.data.pictures import Pictures
from jaxnets.data.threads import Progress, Seen, decode_all
from jaxnets.files import replacing, write_atomically
from jaxnets.naming import quoted

_FORMAT = 3  # of the cache; any change of decoding is a new number


class Kept(NamedTuple):
    """Pictures, decoded now or before.

    Attributes:
      images: [R, H, W, C] uint8 of the R readable ones, in their order; memory-mapped and read-only.
      seen: their labels, and facts about the other pictures.
      fault: a sentence about a damaged entry, which was made anew.
    """

    images: UInt8[np.ndarray, "R H W C"] | None
    seen: Seen
    fault: str | None


def look_through_once(pictures: Pictures, *, accept_unreadable: bool, on_progress: Progress | None = None) -> Kept:
    """Finds unreadable pictures and duplicates. It returns no images.

    The result is kept, and reused if all pictures could be read or `accept_unreadable` is given.

    Args:
      pictures: of one place.
      accept_unreadable: reuse a result in which some could not be read.
      on_progress: called with (done, total) while they are looked at, and not at all where that is known already.
    """
    entry = _Entry(pictures, "-seen", None)
    kept, fault = entry.read(accept_unreadable)
    if kept is not None:
        return kept
    seen = decode_all(pictures, None, lambda pixels: None, on_progress=on_progress)
    with contextlib.suppress(OSError):  # they are looked at again next time
        entry.write_facts(seen, 0)
    return Kept(None, seen, fault)


def decode_once(
    pictures: Pictures,
    size: tuple[int, int],
    *,
    own_size: bool,
    accept_unreadable: bool,
    on_progress: Progress | None = None,
) -> Kept:
    """These pictures from the cache, or decoded into it.

    There is one entry for each place and size, so that a folder that changes does not fill the disk: NAME.pixels has
    the images, and NAME.facts all else, with checksums of both. An entry that is missing, for other pictures, or
    damaged is made anew. So is one with unreadable pictures, unless they are accepted, since the fault may be mended
    by now.

    Args:
      pictures: of one place.
      size: (H, W) to which they are scaled.
      own_size: refuse pictures of another size, and scale none.
      accept_unreadable: take an entry that was made with some left out.
      on_progress: called with (done, total) while pictures are decoded.

    Raises:
      DataError: if the entry cannot be written, for lack of space, say, or pictures differ from `own_size`.
    """
    shape = (*size, pictures.channels)
    entry = _Entry(pictures, f"-{size[0]}x{size[1]}{'-own' if own_size else ''}", shape)
    kept, fault = entry.read(accept_unreadable)
    if kept is not None:
        return kept
    checksum = 0
    try:
        entry.check_space(shape)
        with replacing(entry.pixels) as file:

            def write(pixels: UInt8[np.ndarray, "H W C"]) -> None:
                nonlocal checksum
                checksum = zlib.crc32(pixels.data, checksum)
                file.write(pixels.data)

            seen = decode_all(pictures, shape, write, own_size=own_size, on_progress=on_progress)
        entry.write_facts(seen, checksum)
        return Kept(map_images(entry.pixels, (len(seen.labels), *shape)), seen, fault)
    except OSError as error:
        raise DataError(
            f"{quoted(entry.pixels)}: decoded pictures cannot be kept there ({error.strerror or error}); name another "
            "folder by the environment's XDG_CACHE_HOME."
        ) from error


class _Entry:
    """The kept facts about pictures, and their images of a shape (H, W, C) unless that is None."""

    def __init__(self, pictures: Pictures, kind: str, shape: tuple[int, int, int] | None) -> None:
        self._pictures, self._shape = pictures, shape
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnets" / "pictures"
        place = pictures.place.resolve()
        digits = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()[:8]
        stem = re.sub(r"[^\w-]", "_", "-".join(place.parts[-2:]))[-50:]
        self.pixels = folder / f"{stem}-{digits}{kind}.pixels"
        self._facts = self.pixels.with_suffix(".facts")

    def read(self, accept_unreadable: bool) -> tuple[Kept | None, str | None]:
        """The entry, if it is whole and of these pictures; and a sentence about it, if it is damaged."""
        try:
            checksum, body = self._facts.read_bytes().split(b"\n", 1)
            if zlib.crc32(body) != int(checksum, 16):
                return None, self._fault("its checksum differs")
            facts = json.loads(body)
            if (facts["format"], facts["key"]) != (_FORMAT, self._pictures.key):
                return None, None
            unreadable = {int(index): sentence for index, sentence in facts["unreadable"].items()}
            if unreadable and not accept_unreadable:
                return None, None
            seen, images = Seen(facts["labels"], unreadable, facts["repeated"]), None
            if self._shape is not None:
                images = map_images(self.pixels, (len(seen.labels), *self._shape))
                if _checksum(images) != facts["pixels"]:
                    return None, self._fault("the checksum of its images differs")
            return Kept(images, seen, None), None
        except FileNotFoundError:
            return None, None
        except Exception as error:  # whatever is wrong with the entry, the pictures themselves are there
            return None, self._fault(getattr(error, "strerror", None) or str(error) or type(error).__name__)

    def write_facts(self, seen: Seen, pixels: int) -> None:
        facts: dict[str, Any] = {"format": _FORMAT, "key": self._pictures.key, "pixels": pixels, **seen._asdict()}
        body = json.dumps(facts).encode()
        write_atomically(self._facts, b"%08x\n%b" % (zlib.crc32(body), body))

    def check_space(self, shape: tuple[int, int, int]) -> None:
        self.pixels.parent.mkdir(parents=True, exist_ok=True)
        needed, free = len(self._pictures) * math.prod(shape), shutil.disk_usage(self.pixels.parent).free
        if needed > free:
            raise DataError(
                f"{quoted(self._pictures.place)}: {len(self._pictures)} pictures of {shape[0]}×{shape[1]} take "
                f"{needed / 2**30:.1f} GiB, and {quoted(self.pixels.parent)} has {free / 2**30:.1f} GiB left; free "
                "some, name another folder by XDG_CACHE_HOME, take less, or decode them as they are needed "
                "(--stream, jaxnets.data.streaming)."
            )

    def _fault(self, reason: str) -> str:
        return f"The pictures were decoded anew, as {quoted(self._facts)} is damaged ({quoted(reason, 100)})."


def _checksum(images: UInt8[np.ndarray, "R H W C"]) -> int:
    checksum = 0
    for piece in pieces(images):
        checksum = zlib.crc32(piece.data, checksum)
    return checksum
