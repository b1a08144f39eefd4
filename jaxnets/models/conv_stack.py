"""The seven backbones of the ArcLoss study, under the names of its twelve variants; and Mynn made deeper.

Each is a stack of ConvLayers with max-pools between, and a head: a Linear layer on the flattened map or on its mean
over positions, or a convolution. A layer is written (features, kernel size, padding), a pool "M", as in the study's own
listing.
"""

import dataclasses
from typing import Literal, TypeAlias

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import Conv, ConvLayer, Linear, flatten, from_nhwc, native_layout, widened
from kernels.conv2d import Layout
from kernels.varying import Axes

Stack: TypeAlias = tuple[tuple[int, int, int] | Literal["M"], ...]


@dataclasses.dataclass(frozen=True)
class Backbone:
    layers: Stack
    head: Literal["linear", "conv", "mean"] = "linear"

    @property
    def smallest(self) -> int:
        """The height and width, in pixels, of the smallest images of which its layers leave one pixel."""
        size = 1
        for layer in reversed(self.layers):
            size = 2 * size if layer == "M" else max(1, size + layer[1] - 1 - 2 * layer[2])
        return size


def _same(kernel_size: int, *widths: int | Literal["M"]) -> Stack:
    """Layers that keep height and width."""
    return tuple("M" if width == "M" else (width, kernel_size, kernel_size // 2) for width in widths)


_V0 = Backbone(((16, 3, 0), "M", (32, 3, 0), (64, 3, 0), (128, 3, 0), (256, 3, 0)))
_V1 = Backbone(_same(5, 32, 64, "M", 128, 256, "M", 512, 512, "M", 256, 128, 64, "M"))
_V1_1_2 = Backbone(_same(5, 32, 32, "M", 64, 64, "M", 128, 128, "M", 256, 128, 64, "M"))
_V1_1_3 = dataclasses.replace(_V1_1_2, head="conv")
_V1_2 = Backbone(((32, 3, 1), (64, 3, 2), "M", (128, 3, 1), (256, 3, 2), "M", (256, 3, 1), (128, 3, 2), "M"))
_V1_2_2 = Backbone(_same(5, 32, 32, "M", 64, 64, "M", 128, 128, "M"))
_V2 = Backbone(_same(5, 32, 32, "M", 32, 32, "M", 32, 32, 32, "M", 32, 32, 32, "M"))

BACKBONES = {
    "v0": _V0,
    "v1": _V1,
    "v1_1": _V1,
    "v1_1_2": _V1_1_2,
    "v1_1_3": _V1_1_3,
    "v1_1_4": _V1,
    "v1_2": _V1_2,
    "v1_2_2": _V1_2_2,
    "v1_2_3": _V1_2_2,
    "v1_2_4": _V1_2_2,
    "v2": _V2,
    "v2_1": _V2,
}
MYNN_DEEP = Backbone(_same(3, 32, 32, "M", 64, 64, "M", 128, 128, "M", 256, 256), head="mean")


class ConvStack(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> embeddings [N, num_outputs].

    Submodules have the numbers of the study's PyTorch modules (`hidden_layer_3` is `hidden_layer.3`; the pools count
    too), so that weights cross by name. `axis_name` synchronises BatchNorm over a mapped axis. `dtype` is the dtype to
    compute in, None the images' own; weights stay float32. `layout` is for tests and measurements, None takes the
    platform's.

    Raises:
      ValueError: for images that its layers use up.
    """

    backbone: Backbone
    num_outputs: int = 2
    dtype: DTypeLike | None = None
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        layout = self.layout or native_layout()
        layers = self.backbone.layers
        images, smallest = jnp.asarray(images, self.dtype), self.backbone.smallest
        if min(images.shape[1:3]) < smallest:
            height, width = images.shape[1:3]
            raise ValueError(f"this network takes images of at least {smallest}×{smallest}, not {height}×{width}")
        x = from_nhwc(images, layout)
        for i, layer in enumerate(layers):
            if layer == "M":
                continue  # done by the ConvLayer before it
            features, kernel_size, padding = layer
            pool = i + 1 < len(layers) and layers[i + 1] == "M"
            x = ConvLayer(features, kernel_size, padding, layout, pool, axis_name, name=f"hidden_layer_{i}")(
                x, train=train
            )
        x = widened(x)
        if self.backbone.head == "conv":
            return flatten(Conv(self.num_outputs, 5, 2, layout, name="fc_0")(x), layout)
        if self.backbone.head == "mean":
            x = x.mean((layout.index("H"), layout.index("W")), keepdims=True)
        return Linear(self.num_outputs, name="fc_0")(flatten(x, layout))
