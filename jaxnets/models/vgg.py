"""VGG without BatchNorm, as torchvision has it: Simonyan & Zisserman 2015, arXiv:1409.1556."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import Conv, Linear, flatten, normal_fan_out, widened
from kernels.max_pool import max_pool
from kernels.varying import Axes

Stack: TypeAlias = tuple[int | Literal["M"], ...]
VGG16: Stack = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class VGG(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> scores [N, num_outputs], float32.

    `stack` has the widths of the 3×3 convolutions, and "M" for a pool. For images of any size, the last map is averaged
    to 7×7 before the two hidden Linear layers. Submodules are named as torchvision's, with "_" for "." before
    a number. In training the hidden features are dropped with probability `dropout`, by the rng "dropout". `dtype` is
    the dtype to compute in, None the images' own; weights stay float32. Without BatchNorm, `axis_name` changes nothing.

    Raises:
      ValueError: for images too small for the pools.
    """

    stack: Stack
    num_outputs: int = 2
    hidden: int = 4096
    dropout: float = 0.5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        x = jnp.asarray(images, self.dtype)
        smallest = 2 ** self.stack.count("M")
        if min(x.shape[1:3]) < smallest:
            size = "{}×{}".format(*x.shape[1:3])
            raise ValueError(f"this VGG takes images of at least {smallest}×{smallest}, not {size}")
        index = 0  # torchvision counts each activation as a layer, too
        for width in self.stack:
            if width == "M":
                x, index = max_pool(x), index + 1
            else:
                x = nn.relu(Conv(width, 3, 1, kernel_init=normal_fan_out, name=f"features_{index}")(x))
                index += 2
        x = flatten(_averaged(x, (7, 7)), "NHWC")
        init = nn.initializers.normal(0.01)
        for name in ("classifier_0", "classifier_3"):
            x = nn.relu(Linear(self.hidden, init, name=name)(x))
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Linear(self.num_outputs, init, name="classifier_6")(widened(x))


def _averaged(x: Float[Array, "N H W C"], size: tuple[int, int]) -> Float[Array, "N h w C"]:
    """PyTorch's adaptive average pooling: output i of n is the mean over the inputs ⌊i·H/n⌋ … ⌈(i+1)·H/n⌉ − 1."""
    if x.shape[1:3] == size:
        return x
    rows, columns = (_means(length, count) for length, count in zip(x.shape[1:3], size, strict=True))
    wide = widened(x)
    return jnp.einsum(
        "ih,jw,nhwc->nijc", rows.astype(wide.dtype), columns.astype(wide.dtype), wide, precision="highest"
    ).astype(x.dtype)


def _means(length: int, count: int) -> Float[np.ndarray, "count length"]:
    """The matrix that averages `length` values to `count`."""
    place, i = np.arange(length), np.arange(count)[:, None]
    inside = (place >= i * length // count) & (place < -(-(i + 1) * length // count))
    return inside / inside.sum(axis=1, keepdims=True)
