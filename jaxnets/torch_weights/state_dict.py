"""Converts a network's Flax variables to a PyTorch state dict, and back."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxnets.models import IRESNETS
from jaxnets.naming import quoted
from jaxnets.torch_weights import adaface
from jaxnets.torch_weights.files import read, write
from jaxnets.torch_weights.names import HEAD_NAME, HEAD_PATH, Free, Shape, entries, head
from jaxnets.torch_weights.source import as_array, canonical, unwrapped
from jaxnets.torch_weights.validate import check
from jaxnets.train import TrainState


def from_torch(
    model_name: str,
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str],
    *,
    key: str | None = None,
    num_outputs: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Flax variables {"params": …, "batch_stats": …} of a network, from PyTorch's weights for it.

    The weights say how many outputs and channels the network has, and for which size of image it is. Counters of
    batches and of averaged models are left out: nothing here depends on them. Where the weights hold `head.weight`
    [D, C], the class weights of an angular-margin head, the result has a third key: "head", {"class_weights": [C, D]},
    as `jaxnets.MarginHead` takes them; with sub-centres [D, C, K] and [C, K, D].

    Accepted too: a state dict within a dictionary ({"state_dict": …, "epoch": 3}); the prefixes `module.` and
    `_orig_mod.` of wrapped modules, and any other prefix that all names share (Lightning's `model.`); a ConvLayer that
    keeps its three modules under a name of its own, `hidden_layer.3.layer.0.weight`; a module that was pickled whole;
    for an IResNet the names of AdaFace's authors, whose published networks take BGR images (see `adaface`).

    Args:
      model_name: one of `jaxnets.models.NAMES`.
      state_dict_or_path: a state dict of arrays or tensors, or a .safetensors or .pth file as `read` takes it.
      key: of several state dicts in a dictionary the one to take, as in "model_ema" or "ema.shadow". None takes the
        only one, or the only one that has names of the network.
      num_outputs: refuses weights for another number of outputs; None takes any.

    Returns:
      NumPy arrays of their own memory, in the dtype in which they are stored.

    Raises:
      ValueError: for an unknown network; for weights that are not that network's, with the first that are missing, not
        expected, of another shape or of no floating dtype; for several state dicts without a `key`; for a file that is
        damaged.
      OSError: where the file cannot be read.
    """
    if isinstance(state_dict_or_path, Mapping):
        subject, source = "the state dict", state_dict_or_path
    else:
        subject, source = quoted(state_dict_or_path), read(state_dict_or_path)
    table = entries(model_name)
    known = {entry.name for entry in table}
    source = unwrapped(subject, source, key, known)
    if model_name in IRESNETS:
        source = adaface.renamed(source, IRESNETS[model_name])
    found = canonical(subject, source, known)
    if HEAD_NAME in found:
        table += (head(found[HEAD_NAME]),)
    complaint = f"{subject} does not fit {model_name}"
    expected = {entry.name: entry.torch_shape for entry in table}
    arrays = check(complaint, expected, found)
    [outputs] = {array.shape[i] for name, array in arrays.items() for i in _outputs(expected[name])}
    if num_outputs not in (None, outputs):
        raise ValueError(f"{complaint}: it has {outputs} outputs, not {num_outputs}")
    variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for entry in table:
        scope: dict[str, Any] = variables
        for part in entry.path[:-1]:
            scope = scope.setdefault(part, {})
        scope[entry.path[-1]] = entry.from_torch(arrays[entry.name])
    return variables


def to_torch(model_name: str, variables: Mapping[str, Any] | TrainState) -> dict[str, np.ndarray]:
    """PyTorch's state dict for a network, from its Flax variables or its training state: the inverse of `from_torch`.

    It fits torchvision's or insightface's network of the same name, or the study's `Net` or `Mynn`
    (experiments/torch_peer.py). `num_batches_tracked` is 0, int64, as in a module that has not trained; PyTorch reads
    it only where BatchNorm's momentum is None.

    Args:
      model_name: one of `jaxnets.models.NAMES`.
      variables: {"params": …, "batch_stats": …}, and {"head": {"class_weights": [C, D]}} to get `head.weight` as well;
        or a `jaxnets.TrainState`, which has them all (averaged, where it averages).

    Returns:
      NumPy arrays by PyTorch's names. Without `head.weight`, `load_state_dict(…, strict=True)` takes them, each as
      `torch.from_numpy` makes a tensor of it.

    Raises:
      ValueError: for an unknown network, and for variables that are not that network's, naming the faults.
    """
    if isinstance(variables, TrainState):
        variables = _variables_of(variables)
    found = {path: as_array(leaf) for path, leaf in _leaves(variables)}
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


def save(path: str | os.PathLike[str], model_name: str, variables: Mapping[str, Any] | TrainState) -> None:
    """Writes `to_torch` of a network's variables to a .safetensors file, or, with PyTorch, to a .pth file.

    Of a training state it writes the head's class weights too: `experiments.predict` and `experiments.export` then find
    them, and name the classes by their numbers. The file is there whole or not at all.

    Raises:
      ValueError: for another ending, and as `to_torch`.
      ImportError: for .pth, where PyTorch is not installed.
      OSError: where the file cannot be written.
    """
    write(path, to_torch(model_name, variables))


def _variables_of(state: TrainState) -> dict[str, Any]:
    params, batch_stats = state.for_inference()
    weights = params["head"].get("class_weights")
    head = {} if weights is None else {"head": {"class_weights": weights}}
    return {"params": params["net"], "batch_stats": batch_stats, **head}


def _outputs(shape: Shape) -> list[int]:
    return [axis for axis, size in enumerate(shape) if isinstance(size, Free) and size.word == "outputs"]


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, (*path, str(key)))
