"""A PyTorch state dict made of a network's Flax variables, and variables made of a state dict."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.torch_weights.files import read, write
from jaxnets.torch_weights.fit import check
from jaxnets.torch_weights.names import HEAD_NAME, HEAD_PATH, entries, head

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DataParallel and of torch.compile
NESTED_CONV_LAYER = re.compile(r"^(hidden_layer\.\d+)\.[^.]+\.(\d\.\w+)$")


def from_torch(
    model_name: str, state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str]
) -> dict[str, dict[str, Any]]:
    """Flax variables {"params": …, "batch_stats": …} of a network, from PyTorch's weights for it.

    How many outputs and channels, and what size of image the network is for follows from the weights. BatchNorm's
    counters, `num_batches_tracked`, are left out: nothing here depends on them. Where the weights hold `head.weight`
    [D, C], the class weights of an angular-margin head, the result has a third key: "head", {"class_weights": [C, D]},
    as `jaxnets.MarginHead` takes them; with sub-centres [D, C, K] and [C, K, D].

    Accepted too: a state dict within a dictionary, where it is the only one ({"state_dict": …, "epoch": 3}); the
    prefixes `module.` and `_orig_mod.` of wrapped modules; and a ConvLayer that keeps its three modules under a name
    of its own, `hidden_layer.3.layer.0.weight`.

    Args:
      model_name: one of `jaxnets.models.NAMES`.
      state_dict_or_path: a state dict of arrays or tensors, or a .safetensors or .pth file as `read` takes it.

    Returns:
      NumPy arrays of their own memory, in the dtype in which they are stored.

    Raises:
      ValueError: for an unknown network; for weights that are not that network's, with all that are missing, not
        expected, of another shape or of no floating dtype; for a file that is damaged or carries code.
      OSError: where the file cannot be read.
    """
    if isinstance(state_dict_or_path, Mapping):
        subject, source = "the state dict", state_dict_or_path
    else:
        subject, source = str(state_dict_or_path), read(state_dict_or_path)
    found = _canonical(subject, _unwrapped(subject, source))
    table = entries(model_name)
    if HEAD_NAME in found:
        table += (head(found[HEAD_NAME]),)
    complaint = f"{subject} does not fit {model_name}"
    arrays = check(complaint, {entry.name: entry.torch_shape for entry in table}, found)
    variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for entry in table:
        scope: dict[str, Any] = variables
        for key in entry.path[:-1]:
            scope = scope.setdefault(key, {})
        scope[entry.path[-1]] = entry.from_torch(arrays[entry.name])
    return variables


def to_torch(model_name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """PyTorch's state dict for a network, from its Flax variables: the inverse of `from_torch`.

    `num_batches_tracked` is 0, int64, as in a module that has not trained; PyTorch reads it only where BatchNorm's
    momentum is None.

    Args:
      model_name: one of `jaxnets.models.NAMES`.
      variables: {"params": …, "batch_stats": …}, and {"head": {"class_weights": [C, D]}} to get `head.weight` as well.

    Returns:
      NumPy arrays by PyTorch's names. Without `head.weight`, `load_state_dict(…, strict=True)` takes them, each as
      `torch.from_numpy` makes a tensor of it.

    Raises:
      ValueError: for an unknown network, and for variables that are not that network's, naming all that is wrong.
    """
    found = {path: _as_array(leaf) for path, leaf in _leaves(variables)}
    table = entries(model_name)
    if HEAD_PATH in found:
        table += (head(found[HEAD_PATH]),)
    arrays = check(
        f"the variables do not fit {model_name}",
        {"/".join(entry.path): entry.shape for entry in table},
        {"/".join(path): array for path, array in found.items()},
    )
    state_dict = {}
    for entry in table:
        state_dict[entry.name] = entry.to_torch(arrays["/".join(entry.path)])
        if entry.counter:
            state_dict[entry.counter] = np.zeros((), np.int64)
    return state_dict


def save(path: str | os.PathLike[str], model_name: str, variables: Mapping[str, Any]) -> None:
    """Writes `to_torch` of a network's variables to a .safetensors file, or, with PyTorch, to a .pth file.

    The file is there whole or not at all.

    Raises:
      ValueError: for another ending, and as `to_torch`.
      ImportError: for .pth, where PyTorch is not installed.
      OSError: where the file cannot be written.
    """
    write(path, to_torch(model_name, variables))


def _unwrapped(subject: str, source: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict itself, where it lies in a dictionary of other things."""
    inner = [
        key
        for key, value in source.items()
        if isinstance(value, Mapping) and value and all(map(_is_array, value.values()))
    ]
    if len(inner) > 1:
        raise ValueError(f"{subject} holds several state dicts ({', '.join(map(str, inner))}): read it, and pass one")
    return source[inner[0]] if inner else source


def _canonical(subject: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays under the names that `entries` gives, None for what is no array; without BatchNorm's counters."""
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, value in state_dict.items():
        if str(key).endswith(".num_batches_tracked"):
            continue
        name = NESTED_CONV_LAYER.sub(r"\1.\2", WRAPPERS.sub("", str(key)))
        if name in found:
            raise ValueError(f"{subject} has both {origins[name]} and {key}, which are the same entry")
        found[name], origins[name] = _as_array(value), str(key)
    return found


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, jax.Array)) or _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def _as_array(value: Any) -> np.ndarray | None:
    """An array or a tensor as NumPy's; None for anything else."""
    if not _is_tensor(value):
        return np.asarray(value) if _is_array(value) else None
    tensor = value.detach().cpu().contiguous()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import torch

    return tensor.view(torch.uint16).numpy().view(jnp.dtype("bfloat16"))


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, (*path, str(key)))
