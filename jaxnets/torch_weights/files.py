"""Files of PyTorch weights: .safetensors, and PyTorch's own .pth."""

import errno
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from jaxnets.files import opened_regular, write_atomically
from jaxnets.naming import quoted
from jaxnets.pickles import Inert
from jaxnets.torch_weights.modules import is_module, state_dict
from jaxnets.torch_weights.pth import DAMAGE, LARGEST_FILE, read_pth

# AttributeError, TypeError and KeyError are for a dtype that NumPy has not.
DAMAGED_SAFETENSORS = (SafetensorError, ValueError, TypeError, AttributeError, LookupError, MemoryError)


def read(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """The content of a file of PyTorch weights: NumPy arrays by their names, or a dictionary around them.

    A file whose name ends in .safetensors is read as safetensors, and any other as a .pth file, in the zip format or in
    the older one from before PyTorch 1.6. PyTorch is not needed, and no code in a file is run: arrays, numbers,
    strings, lists, tuples and dictionaries are read, and any other object becomes an inert one that holds its name. A
    module that was pickled whole becomes its state dict.

    Raises:
      ValueError: where the file is damaged, too large (4 GiB), or none of these.
      OSError: where it cannot be read, or is no regular file.
    """
    path = Path(path)
    name = quoted(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = read_pth(path)
        if is_module(content):
            return state_dict(content)
        if type(content) is dict:
            return {key: state_dict(value) if is_module(value) else value for key, value in content.items()}
    except DAMAGE as error:
        raise ValueError(f"{name} cannot be read as PyTorch's weights: {_reason(error)}") from error
    except OSError as error:
        if error.filename is None and error.errno == errno.EINVAL:  # a place before the file's beginning
            raise ValueError(f"{name} cannot be read as PyTorch's weights: its sizes are wrong") from error
        raise
    instead = f"{content!r}" if isinstance(content, Inert) else f"a {type(content).__name__}"
    raise ValueError(f"{name} holds no dictionary of weights, but {instead}")


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """See `jaxnets.torch_weights.save`."""
    path = Path(path)
    if path.suffix == ".safetensors":
        content = safetensors.numpy.save(dict(arrays), {"format": "pt"})
    elif path.suffix == ".pth":
        content = _pth(path, arrays)
    else:
        raise ValueError(
            f"{quoted(path)} ends in neither .safetensors nor .pth, the two kinds of file that are written"
        )
    write_atomically(path, content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with opened_regular(path) as file:  # for the operating system's own words where it is none
        size = os.fstat(file.fileno()).st_size
    try:
        if size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE // 2**30} GiB")
        return safetensors.numpy.load_file(path)
    except DAMAGED_SAFETENSORS as error:
        raise ValueError(f"{quoted(path)} cannot be read as safetensors: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return quoted(error) or type(error).__name__


def _pth(path: Path, arrays: Mapping[str, np.ndarray]) -> bytes:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{quoted(path)} can only be written with PyTorch (pip install torch): a .safetensors file needs none"
        ) from error

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    buffer = io.BytesIO()
    torch.save({name: tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()
