"""Finds the state dict within a checkpoint, and gives its arrays the network's names."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.naming import quoted
from jaxnets.pickles import Inert
from jaxnets.torch_weights.names import HEAD_NAME
from jaxnets.torch_weights.validate import LONGEST_NAME, MOST_NAMED

WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DataParallel and of torch.compile
NESTED_CONV_LAYER = re.compile(r"^(hidden_layer\.\d+)\.[^.]+\.(\d\.\w+)$")
COUNTERS = ("num_batches_tracked", "n_averaged")  # BatchNorm's, and torch.optim.swa_utils.AveragedModel's


def unwrapped(subject: str, source: Mapping[str, Any], key: str | None, known: set[str]) -> Mapping[str, Any]:
    """The state dict itself, where a dictionary holds it beside other things."""
    inner = [name for name, value in source.items() if isinstance(value, Mapping) and _may_be_state_dict(value)]
    names = ", ".join(quoted(name, LONGEST_NAME) for name in inner[:MOST_NAMED])
    if key is not None:
        for part in key.split("."):
            found = source.get(part)
            if not isinstance(found, Mapping):
                raise ValueError(f"{subject} holds no state dict {quoted(key)!r}{f', but {names}' if names else ''}")
            source = found
        return source
    if len(inner) > 1:
        fitting = [name for name in inner if _has_names_of(source[name], known)]
        inner = fitting if len(fitting) == 1 else inner
    if len(inner) > 1:
        raise ValueError(f"{subject} holds several state dicts ({names}): choose one with key=… (--key …)")
    return source[inner[0]] if inner else source


def canonical(subject: str, state_dict: Mapping[str, Any], known: set[str]) -> dict[str, np.ndarray | str]:
    """Arrays under the names of `entries`, without counters. A string describes an entry that is no array."""
    names = {key: WRAPPERS.sub("", str(key)) for key in state_dict if str(key).rpartition(".")[2] not in COUNTERS}
    prefix = _shared_prefix([name for name in names.values() if name != HEAD_NAME], known)
    found: dict[str, np.ndarray | str] = {}
    origins: dict[str, str] = {}
    for key, name in names.items():
        name = _study_name(name.removeprefix(prefix))
        if name in found:
            first, second = (quoted(origin, LONGEST_NAME) for origin in (origins[name], key))
            raise ValueError(f"{subject} has both {first} and {second}, which are the same entry")
        found[name], origins[name] = as_array(state_dict[key]), str(key)
    return found


def _may_be_state_dict(value: Mapping[str, Any]) -> bool:
    kinds = [_is_array(entry) for entry in value.values() if not isinstance(entry, Inert)]
    return any(kinds) and all(kinds)


def _has_names_of(state_dict: Mapping[str, Any], known: set[str]) -> bool:
    names = [WRAPPERS.sub("", str(key)) for key in state_dict]
    prefix = _shared_prefix(names, known)
    return any(_study_name(name.removeprefix(prefix)) in known for name in names)


def _study_name(name: str) -> str:
    return NESTED_CONV_LAYER.sub(r"\1.\2", name)


def _shared_prefix(names: list[str], known: set[str]) -> str:
    """The prefix that all names share, if it is no part of the network's own names; else ""."""
    prefix = ""
    while names and not any(_study_name(name.removeprefix(prefix)) in known for name in names):
        word = names[0].removeprefix(prefix).partition(".")[0]
        prefix = f"{prefix}{word}."
        if not word or not all(name.startswith(prefix) for name in names):
            return ""
    return prefix


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, jax.Array)) or _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def as_array(value: Any) -> np.ndarray | str:
    """An array or a tensor as a NumPy array; a description of anything else."""
    if isinstance(value, Inert):
        return quoted(value.name, LONGEST_NAME)
    if not _is_tensor(value):
        return np.asarray(value) if _is_array(value) else "no array"
    try:
        tensor = value.detach().cpu().contiguous()
        if str(tensor.dtype) != "torch.bfloat16":
            return tensor.numpy()
        import torch

        return tensor.view(torch.uint16).numpy().view(jnp.dtype("bfloat16"))
    except (TypeError, RuntimeError):  # NotImplementedError among them: float8, meta, sparse, quantised tensors
        return f"{value.dtype} tensor, {value.layout}, on {value.device}"
