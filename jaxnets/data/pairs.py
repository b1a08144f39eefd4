"""Verification sets as insightface has them (lfw.bin, cfp_fp.bin, agedb_30.bin): pairs of pictures of one face, or two.

Such a file is a pickle, of which nothing is run (see `jaxnets.pickles`).
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxnets.data.dataset import DataError
from jaxnets.files import read_regular
from jaxnets.naming import quoted
from jaxnets.pickles import Inert, describe

_MAX_BYTES = 2**30
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def load_bin(path: str | os.PathLike[str]) -> tuple[tuple[bytes, ...], Bool[np.ndarray, " P"]]:
    """The pictures of P pairs, still encoded, and whether both of a pair are of one identity.

        pictures, is_same = load_bin("lfw.bin")
        images = np.stack([decode(picture, (112, 112, 3), where="lfw.bin") for picture in pictures])
        first, second = images[::2], images[1::2]

    Args:
      path: of a file of at most 1 GiB, in any of Python's protocols, Python 2's too.

    Returns:
      2·P pictures, which `jaxnets.data.decoding.decode` takes, pair i's at 2·i and 2·i + 1; and [P] bool.

    Raises:
      DataError: if the file cannot be read, is no pickle of such pairs, or is damaged.
    """
    where = quoted(Path(path))
    try:
        content = read_regular(path, limit=_MAX_BYTES)
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror or error}).") from error
    try:
        pictures, is_same = describe(io.BytesIO(content), _call, _no_storage)
        encoded, same = tuple(map(_bytes, _items(pictures))), [_truth(value) for value in _items(is_same)]
    except Exception as error:  # a damaged pickle fails in more ways than can be listed
        reason = quoted(str(error) or type(error).__name__, 100)
        raise DataError(f"{where} is no pickle of pictures and of pairs ({reason}); fetch it again.") from error
    if not same or len(encoded) != 2 * len(same):
        raise DataError(
            f"{where} has {len(encoded)} pictures and {len(same)} pairs, and not two pictures for each of one or more "
            "pairs; fetch it again."
        )
    return encoded, np.array(same, bool)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """The value of a call by which a pickle writes bytes or a truth, and None for every other."""
    match name, arguments:
        # Python 3 writes bytes like this in the protocols that Python 2 reads.
        case "_codecs.encode", (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
        case "__builtin__.bytes" | "builtins.bytes", ():
            return b""
        case scalar, (Inert(), bytes() as value) if scalar in _SCALARS and value in (b"\0", b"\1"):
            return value == b"\1"
    return None


def _no_storage(identity: Any) -> Any:
    raise ValueError("it refers to something outside of it")


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"a {type(value).__name__} in the place of a list")
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):  # Python 2's strings are bytes
        return value.encode("latin-1")
    if not isinstance(value, bytes):
        raise ValueError(f"a {type(value).__name__} in the place of a picture")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ValueError(f"a {type(value).__name__} in the place of true or false")
    return bool(value)
