"""The PyTorch entry of each Flax variable: its name, its shape, and the conversion of its layout."""

import dataclasses
import functools
import re
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import models


class Free(NamedTuple):
    """A size that the weights decide: one number for all entries that have it, and a multiple of `multiple`."""

    word: str
    multiple: int = 1

    def __str__(self) -> str:
        return self.word if self.multiple == 1 else f"{self.multiple}·{self.word}"


Shape: TypeAlias = tuple[int | Free, ...]
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slopes": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# One Flax module; in PyTorch an nn.Sequential of convolution, BatchNorm and PReLU.
CONV_LAYER_LEAVES = {
    "kernel": "0.weight",
    "scale": "1.weight",
    "bias": "1.bias",
    "mean": "1.running_mean",
    "var": "1.running_var",
    "slope": "2.weight",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array under both its names.

    `shape` is Flax's. A Linear may read a flattened map of `channels` channels: PyTorch flattens it in the order
    channel, row, column; Flax in the order row, column, channel. With 1 channel the orders are the same.
    """

    path: tuple[str, ...]
    name: str
    shape: Shape
    channels: int = 1

    @property
    def torch_shape(self) -> Shape:
        if self.path[-1] == "slope":
            return (1,)
        if len(self.shape) == 4:
            height, width, inputs, outputs = self.shape
            return outputs, inputs, height, width
        if len(self.shape) == 3:
            return self.shape[-1:] + self.shape[:-1]
        return self.shape[::-1]

    @property
    def counter(self) -> str | None:
        """The name of BatchNorm's counter of batches, for a running variance."""
        return f"{self.name.removesuffix('running_var')}num_batches_tracked" if self.path[-1] == "var" else None

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 3:
            array = array.transpose(2, 0, 1)
        elif array.ndim == 2:
            inputs, outputs = array.shape
            array = array.reshape(-1, self.channels, outputs).transpose(2, 1, 0).reshape(outputs, inputs)
        return np.array(array.reshape(1) if self.path[-1] == "slope" else array, order="C")

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif array.ndim == 3:
            array = array.transpose(1, 2, 0)
        elif array.ndim == 2:
            outputs, inputs = array.shape
            array = array.reshape(outputs, self.channels, -1).transpose(2, 1, 0).reshape(inputs, outputs)
        return np.array(array.reshape(()) if self.path[-1] == "slope" else array, order="C")


HEAD_PATH, HEAD_NAME = ("head", "class_weights"), "head.weight"


def head(array: np.ndarray | str | None) -> Entry:
    """The class weights of an angular-margin head: [D, C] in PyTorch, as the study's own module has them; [C, D] here.

    With sub-centres they are [D, C, K] and [C, K, D].
    """
    subcenters = (Free("sub-centres"),) if isinstance(array, np.ndarray) and array.ndim == 3 else ()
    return Entry(HEAD_PATH, HEAD_NAME, (Free("classes"), *subcenters, Free("outputs")))


@functools.cache
def entries(model_name: str) -> tuple[Entry, ...]:
    """Every parameter and running statistic of a network, in the order of its PyTorch names.

    Raises:
      ValueError: for an unknown network, with the nearest one.
    """
    # The weights decide the sizes in which these two differ.
    shapes = _shapes(model_name, outputs=2, channels=3, size=224)
    others = _shapes(model_name, outputs=5, channels=4, size=448)
    words = {(2, 5): "outputs", (3, 4): "channels"}
    table = []
    for path, shape in shapes.items():
        pairs = zip(shape, others[path], strict=True)
        sizes = tuple(a if a == b else Free(words.get((a, b), "pixels")) for a, b in pairs)
        table.append(Entry(path, torch_name(path, ("params", *path[1:-1], "slope") in shapes), sizes))
    table.sort(key=lambda entry: _natural(entry.name))
    return _with_flattening(table)


def torch_name(path: tuple[str, ...], in_conv_layer: bool) -> str:
    """("params", "layer1_0", "downsample_0", "kernel") -> "layer1.0.downsample.0.weight"."""
    module = re.sub(r"_(\d+)", r".\1", ".".join(path[1:-1]))
    return f"{module}.{(CONV_LAYER_LEAVES if in_conv_layer else LEAVES)[path[-1]]}"


def _shapes(model_name: str, *, outputs: int, channels: int, size: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    module = models.create(model_name, outputs)
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    variables = jax.eval_shape(lambda images: module.init(jax.random.key(0), images, train=False), images)
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}


def _with_flattening(table: list[Entry]) -> tuple[Entry, ...]:
    """The first Linear reads the last convolution's map. Of a 1×1 map both orders are the same."""
    linear = next((entry for entry in table if len(entry.shape) == 2), None)
    if linear is None:
        return tuple(table)
    channels = [entry.shape[3] for entry in table if len(entry.shape) == 4][-1]
    assert isinstance(channels, int)
    inputs, outputs = linear.shape
    shape = (Free(inputs.word, channels) if isinstance(inputs, Free) else inputs, outputs)
    flattened = dataclasses.replace(linear, shape=shape, channels=channels)
    return tuple(flattened if entry is linear else entry for entry in table)


def _natural(name: str) -> list[str | int]:
    """A key that puts layer 9 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
