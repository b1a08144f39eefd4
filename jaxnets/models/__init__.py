"""The networks: Flax Linen modules, built by name."""

from flax import linen as nn

from jaxnets.models.conv_stack import BACKBONES, ConvStack
from jaxnets.naming import nearest

NAMES = tuple(BACKBONES)


def create(name: str, num_outputs: int = 2) -> nn.Module:
    """The network called `name`, one of `NAMES`: images [N, H, W, C], float in [0, 1] -> [N, num_outputs].

    Every network is applied as `module.apply(variables, images, train=False, axis_name=None)`.

    Raises:
      ValueError: for an unknown name, with the nearest one.
    """
    if name not in NAMES:
        raise ValueError(f"there is no network {name!r}{nearest(name, NAMES)}")
    return ConvStack(BACKBONES[name], num_outputs)
