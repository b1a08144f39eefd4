"""IResNet under the names of AdaFace's authors, given the names in insightface's arcface_torch.

Kim et al. 2022, arXiv:2204.00964, publish checkpoints of the same network built of numbered parts: `input_layer`,
blocks `body.N` with a `res_layer` and a `shortcut_layer`, and `output_layer`. Two things differ:

- Their first block has x at every second pixel beside its convolutions, where insightface's has a 1×1 convolution and a
  BatchNorm. It becomes a convolution with the identity and a BatchNorm that changes nothing.
- Their last BatchNorm has no scale and no bias. It gets ones and zeros.

Their published networks take BGR images: give `images[..., ::-1]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnets.torch_weights.source import as_array
from kernels.norm_act_pool.reference import EPSILON

_FIRST = "input_layer.0.weight"
_PARTS = {
    "input_layer.0": "conv1",
    "input_layer.1": "bn1",
    "input_layer.2": "prelu",
    "output_layer.0": "bn2",
    "output_layer.3": "fc",
    "output_layer.4": "features",
}
_OF_BLOCK = {
    "res_layer.0": "bn1",
    "res_layer.1": "conv1",
    "res_layer.2": "bn2",
    "res_layer.3": "prelu",
    "res_layer.4": "conv2",
    "res_layer.5": "bn3",
    "shortcut_layer.0": "downsample.0",
    "shortcut_layer.1": "downsample.1",
}
_HEAD = {"head.kernel": "head.weight"}  # both [D, C]
_HEADS_STATISTICS = ("head.t", "head.batch_mean", "head.batch_std")  # of training


def renamed(state_dict: Mapping[str, Any], depths: Sequence[int]) -> Mapping[str, Any]:
    """An AdaFace state dict under insightface's names, the prefix of its wrappers removed; any other unchanged.

    Args:
      state_dict: arrays or tensors by name.
      depths: the number of blocks in each stage.
    """
    firsts = [str(key) for key in state_dict if str(key).endswith(_FIRST)]
    if len(firsts) != 1:
        return state_dict
    prefix = firsts[0].removesuffix(_FIRST)
    parts = _parts(depths)
    found: dict[str, Any] = {}
    for key, value in state_dict.items():
        name = str(key).removeprefix(prefix)
        module, _, leaf = name.rpartition(".")
        if name not in _HEADS_STATISTICS:
            found[_HEAD.get(name) or (f"{parts[module]}.{leaf}" if module in parts else name)] = value
    return _made_up(found) | found


def _parts(depths: Sequence[int]) -> dict[str, str]:
    blocks = [f"layer{stage}.{i}" for stage, depth in enumerate(depths, 1) for i in range(depth)]
    numbered = {
        f"body.{number}.{theirs}": f"{block}.{ours}"
        for number, block in enumerate(blocks)
        for theirs, ours in _OF_BLOCK.items()
    }
    return _PARTS | numbered


def _made_up(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The entries that AdaFace's network does without."""
    entries: dict[str, np.ndarray] = {}
    width, outputs = (_length(found.get(name)) for name in ("conv1.weight", "fc.weight"))
    if width:
        entries |= {
            "layer1.0.downsample.0.weight": np.eye(width, dtype=np.float32)[:, :, None, None],
            "layer1.0.downsample.1.weight": np.full(width, np.sqrt(1 + EPSILON), np.float32),
            "layer1.0.downsample.1.bias": np.zeros(width, np.float32),
            "layer1.0.downsample.1.running_mean": np.zeros(width, np.float32),
            "layer1.0.downsample.1.running_var": np.ones(width, np.float32),
        }
    if outputs:
        entries |= {"features.weight": np.ones(outputs, np.float32), "features.bias": np.zeros(outputs, np.float32)}
    return entries


def _length(value: Any) -> int:
    """Of the first axis; 0 of anything but an array."""
    array = as_array(value)
    return len(array) if isinstance(array, np.ndarray) and array.ndim else 0
