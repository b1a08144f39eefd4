"""IResNet, the network of ArcFace's authors: Deng et al. 2019, arXiv:1801.07698, section 3.2.

It is insightface's arcface_torch, layer for layer: a residual block begins and ends with a BatchNorm, has a PReLU with
a slope for each channel between its convolutions, and has no activation after the sum.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import BatchNorm, Conv, Linear, Norm, PReLU, flatten, widened
from kernels.varying import Axes

DEPTHS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}


class IResNet(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> embeddings [N, num_outputs], float32.

    The authors' images are 112×112 RGB, and go in as (x − ½)/½, which happens here. The images of initialisation decide
    the inputs of `fc`. Submodules are named as the authors', with "_" for "." before a number. `features`, the last
    BatchNorm, has a scale that gets no gradient; weight decay must spare it. In training the inputs of `fc` are dropped
    with probability `dropout`, by the rng "dropout". `dtype` is the dtype to compute in, None the images' own; weights
    and BatchNorm's statistics stay float32. `axis_name` synchronises BatchNorm over a mapped axis.

    Raises:
      ValueError: for images of another size than at initialisation.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_outputs: int = 512
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        norm = partial(BatchNorm, train, axis_name)
        x = jnp.asarray(images, self.dtype) * 2 - 1
        x = _conv(self.widths[0], 3, name="conv1")(x)
        x = PReLU(name="prelu")(norm(name="bn1")(x))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(depth):
                x = Block(width, 1 if i else 2, norm, name=f"layer{stage}_{i}")(x)
        x = flatten(norm(name="bn2")(x), "NHWC")
        self._check_size(x.shape[1], jnp.shape(images)[1:3])
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = Linear(self.num_outputs, name="fc")(widened(x))
        normalised: Float[Array, "N 1 1 D"] = norm(train_scale=False, name="features")(jnp.expand_dims(x, (1, 2)))
        return normalised.squeeze((1, 2))

    def _check_size(self, features: int, size: tuple[int, ...]) -> None:
        fc = self.variables.get("params", {}).get("fc")
        if fc is not None and fc["kernel"].shape[0] != features:
            wanted, given = (length // self.widths[-1] for length in (fc["kernel"].shape[0], features))
            raise ValueError(
                f"this IResNet was initialised with images whose last map has {wanted} pixels, and "
                f"{size[0]}×{size[1]} make {given}"
            )


class Block(nn.Module):
    """BatchNorm, 3×3, BatchNorm, PReLU, 3×3 with the stride, BatchNorm; plus x, projected where its shape changes."""

    width: int
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        y = _conv(self.width, 3, name="conv1")(self.norm(name="bn1")(x))
        y = PReLU(name="prelu")(self.norm(name="bn2")(y))
        y = self.norm(name="bn3")(_conv(self.width, 3, self.stride, name="conv2")(y))
        if self.stride != 1 or x.shape[3] != self.width:
            x = self.norm(name="downsample_1")(_conv(self.width, 1, self.stride, name="downsample_0")(x))
        return y + x


def _conv(features: int, kernel_size: int, stride: int = 1, *, name: str) -> Conv:
    """Without bias; the authors start at N(0, 0.1²)."""
    init = nn.initializers.normal(0.1)
    return Conv(features, kernel_size, kernel_size // 2, stride=stride, use_bias=False, kernel_init=init, name=name)
