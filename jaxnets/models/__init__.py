"""The networks: Flax Linen modules, built by name."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxnets.domains import check_count
from jaxnets.models import iresnet
from jaxnets.models.conv_stack import BACKBONES, MYNN_DEEP, ConvStack
from jaxnets.models.mobilenet_v2 import MobileNetV2
from jaxnets.models.mynn import Mynn
from jaxnets.models.regnet import RegNetX
from jaxnets.models.resnet import ResNet
from jaxnets.models.vgg import VGG, VGG16
from jaxnets.naming import nearest

_CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "mynn": Mynn,
    "mynn_relu": partial(Mynn, relu=True),
    "mynn_deep": partial(ConvStack, MYNN_DEEP),
    "resnet18": partial(ResNet, (2, 2, 2, 2), False),
    "resnet50": partial(ResNet, (3, 4, 6, 3), True),
    "regnet_x_400mf": partial(RegNetX, (1, 2, 7, 12), (32, 64, 160, 400), 16),
    "mobilenet_v2": MobileNetV2,
    "vgg16": partial(VGG, VGG16),
}
IRESNETS = iresnet.DEPTHS
_NETWORKS = _CLASSIFIERS | {name: partial(iresnet.IResNet, depths) for name, depths in IRESNETS.items()}
EMBEDDERS = (*BACKBONES, *IRESNETS)  # whose outputs are embeddings and no scores
NAMES = (*BACKBONES, *_NETWORKS)


def create(name: str, num_outputs: int = 2, dtype: DTypeLike | None = None) -> nn.Module:
    """The network called `name`, one of `NAMES`: images [N, H, W, C], float in [0, 1] -> [N, num_outputs].

    Every network is applied as `module.apply(variables, images, train=False, axis_name=None)`, in training with
    `mutable=["batch_stats"]` and, for networks with dropout, an rng "dropout".

    Args:
      name: of an ArcLoss variant; `mynn`, `mynn_relu` or `mynn_deep`, which has pairs of 3×3 convolutions with
        BatchNorm and PReLU, and the mean over positions in place of the hidden Linear layer; `resnet18`, `resnet50`,
        `regnet_x_400mf`, `mobilenet_v2` or `vgg16`, which are torchvision's to the letter; `iresnet18`, `iresnet34`,
        `iresnet50` or `iresnet100`, which are insightface's.
      num_outputs: embedding dimensions, or classes.
      dtype: the dtype to compute in, float32 or bfloat16; None takes the images' dtype. Weights, BatchNorm's statistics
        and the result are float32 all the same.

    Raises:
      ValueError: for an unknown name, with the nearest one, for no outputs, and for another dtype.
    """
    if name not in NAMES:
        raise ValueError(f"there is no network {name!r}{nearest(name, NAMES)}")
    check_count("num_outputs", num_outputs)
    if dtype is not None:
        dtype = jnp.dtype(dtype)
        if dtype not in (jnp.float32, jnp.bfloat16):
            raise ValueError(f"networks compute in float32 or bfloat16, not {dtype}")
    if name not in BACKBONES:
        return _NETWORKS[name](num_outputs=num_outputs, dtype=dtype)
    if dtype is not None and dtype == jnp.bfloat16:
        raise ValueError(f"{name} computes in float32 alone: bfloat16 is for {', '.join(_NETWORKS)}")
    return ConvStack(BACKBONES[name], num_outputs)
