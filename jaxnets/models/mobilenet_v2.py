"""MobileNetV2 as torchvision has it: Sandler et al. 2018, arXiv:1801.04381."""

from functools import partial
from typing import TypeAlias

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import BatchNorm, Linear, Norm, conv_norm, widened
from kernels.varying import Axes

# Each stage's expansion, features, blocks and first stride: Table 2 of the paper.
Stages: TypeAlias = tuple[tuple[int, int, int, int], ...]
_STAGES: Stages = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> scores [N, num_outputs], float32.

    Submodules are named as torchvision's, with "_" for "." before a number. In training the features before the scores
    are dropped with probability `dropout`, by the rng "dropout". `dtype` is the dtype to compute in, None the images'
    own; weights and BatchNorm's statistics stay float32. `axis_name` synchronises BatchNorm over a mapped axis.
    """

    num_outputs: int = 2
    stages: Stages = _STAGES
    dropout: float = 0.2
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        norm = partial(BatchNorm, train, axis_name)
        x = jnp.asarray(images, self.dtype)
        x = nn.relu6(conv_norm(x, 32, 3, norm, ("features_0_0", "features_0_1"), stride=2))
        blocks = [
            (expansion, features, stride if i == 0 else 1)
            for expansion, features, count, stride in self.stages
            for i in range(count)
        ]
        for i, (expansion, features, stride) in enumerate(blocks, 1):
            x = InvertedResidual(expansion, features, stride, norm, name=f"features_{i}")(x)
        last = len(blocks) + 1
        x = nn.relu6(conv_norm(x, 1280, 1, norm, (f"features_{last}_0", f"features_{last}_1")))
        x = nn.Dropout(self.dropout)(widened(x).mean((1, 2)), deterministic=not train)
        return Linear(self.num_outputs, kernel_init=nn.initializers.normal(0.01), name="classifier_1")(x)


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, 3×3 a channel at a time, 1×1 without activation; plus x if that fits."""

    expansion: int
    features: int
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        hidden, y, i = self.expansion * x.shape[3], x, 0
        if self.expansion != 1:
            y = nn.relu6(conv_norm(y, hidden, 1, self.norm, ("conv_0_0", "conv_0_1")))
            i = 1
        depthwise = conv_norm(
            y, hidden, 3, self.norm, (f"conv_{i}_0", f"conv_{i}_1"), stride=self.stride, groups=hidden
        )
        y = conv_norm(nn.relu6(depthwise), self.features, 1, self.norm, (f"conv_{i + 1}", f"conv_{i + 2}"))
        return x + y if self.stride == 1 and x.shape == y.shape else y
