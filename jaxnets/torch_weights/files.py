"""Files of PyTorch weights: .safetensors, and PyTorch's own .pth."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from jaxnets.files import write_atomically
from jaxnets.torch_weights.pickles import Refused
from jaxnets.torch_weights.pth import DAMAGE, read_pth


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of PyTorch weights holds: NumPy arrays by their names, or a dictionary around such a one.

    A file whose name ends in .safetensors is read as that, and any other as a .pth file, in the zip format or in the
    one from before PyTorch 1.6. PyTorch is not needed, and nothing that a file carries is run.

    Raises:
      ValueError: where the file is damaged, is none of these, or names what no weights need: a class or a function.
      OSError: where it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = read_pth(path)
    except Refused as refused:
        raise ValueError(
            f"{path} is refused, and nothing in it was run: it names {str(refused)!r:.100}, which no weights need "
            "(in PyTorch, save the module's state_dict() alone)"
        ) from None
    except DAMAGE as error:
        raise ValueError(f"{path} cannot be read as PyTorch's weights: {error or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no dictionary of weights")
    return content


def write(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """See `jaxnets.torch_weights.save`."""
    path = Path(path)
    if path.suffix == ".safetensors":
        content = safetensors.numpy.save(dict(state_dict), {"format": "pt"})
    elif path.suffix == ".pth":
        content = _pth(path, state_dict)
    else:
        raise ValueError(f"{path} ends in neither .safetensors nor .pth, the two kinds of file that are written")
    write_atomically(path, content)


def _read_safetensors(path: Path) -> dict[str, Any]:
    path.open("rb").close()  # for the operating system's own words where there is no such file
    try:
        return safetensors.numpy.load_file(path)
    except (SafetensorError, AttributeError, TypeError) as error:  # the latter two for a dtype that NumPy has not
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _pth(path: Path, state_dict: Mapping[str, np.ndarray]) -> bytes:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} can only be written with PyTorch (pip install torch); a .safetensors file needs nothing more"
        ) from error

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:
            return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    buffer = io.BytesIO()
    torch.save({name: tensor(array) for name, array in state_dict.items()}, buffer)
    return buffer.getvalue()
