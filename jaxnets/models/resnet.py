"""ResNet as torchvision has it: He et al. 2016, arXiv:1512.03385, with the stride of a bottleneck in its 3×3."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import BatchNorm, Linear, Norm, conv_norm, widened
from kernels.max_pool import max_pool
from kernels.varying import Axes

_WIDTHS = (64, 128, 256, 512)


class ResNet(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> scores [N, num_outputs], float32.

    Submodules are named as torchvision's, with "_" for "." before a number. The computation is in `dtype`, or if it is
    None in the images' own; weights and BatchNorm's statistics stay float32. `axis_name` synchronises BatchNorm over a
    mapped axis.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool
    num_outputs: int = 2
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        norm = partial(BatchNorm, train, axis_name)
        x = jnp.asarray(images, self.dtype)
        x = nn.relu(conv_norm(x, 64, 7, norm, ("conv1", "bn1"), stride=2))
        x = max_pool(x, size=3, stride=2, padding=1)
        for stage, (depth, width) in enumerate(zip(self.depths, _WIDTHS, strict=True), 1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                x = Block(width, stride, self.bottleneck, norm, name=f"layer{stage}_{i}")(x)
        return Linear(self.num_outputs, name="fc")(widened(x).mean((1, 2)))


class Block(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3 and 1×1 to four times the width, beside the identity or a projection."""

    width: int
    stride: int
    bottleneck: bool
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        convolutions = [(self.width, 3, self.stride), (self.width, 3, 1)]  # features, kernel size, stride
        if self.bottleneck:
            convolutions = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        y = x
        for i, (features, kernel_size, stride) in enumerate(convolutions, 1):
            y = conv_norm(y, features, kernel_size, self.norm, (f"conv{i}", f"bn{i}"), stride=stride)
            y = nn.relu(y) if i < len(convolutions) else y
        if self.stride != 1 or x.shape[3] != y.shape[3]:
            x = conv_norm(x, y.shape[3], 1, self.norm, ("downsample_0", "downsample_1"), stride=self.stride)
        return nn.relu(y + x)
