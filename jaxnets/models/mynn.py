"""Mynn, the small network of the gender study: three convolutions, three pools, two Linear layers, no activation."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import Conv, Linear, flatten, from_nhwc, native_layout, widened
from kernels.conv2d import Layout
from kernels.varying import Axes

_WIDTHS, _HIDDEN = (32, 32, 64), 64


class Mynn(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> scores [N, num_outputs], float32.

    The study's images are 224×224. Any multiples of 8 serve as height and width; the images of initialisation decide
    the inputs of the hidden Linear layer. `relu` puts one after each convolution and after the hidden layer. Submodules
    have the numbers of the study's PyTorch modules. `dtype` is the dtype to compute in, None the images' own; weights
    stay float32. `layout` is for tests and measurements, None takes the platform's.

    Raises:
      ValueError: for other sizes, and for images of another size than at initialisation.
    """

    num_outputs: int = 2
    relu: bool = False
    dtype: DTypeLike | None = None
    layout: Layout | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        images = jnp.asarray(images, self.dtype)
        height, width = images.shape[1:3]
        if height % 8 or width % 8 or not height * width:
            raise ValueError(f"Mynn takes images whose height and width are multiples of 8, not {height}×{width}")
        layout = self.layout or native_layout()
        x = from_nhwc(images, layout)
        for i, features in enumerate(_WIDTHS):
            x = self._activated(Conv(features, 5, 2, layout, pool=True, name=f"model1_{2 * i}")(x))
        x = flatten(x, layout)
        self._check_size(x.shape[1], images.shape)
        x = self._activated(Linear(_HIDDEN, name="model1_7")(x))
        return Linear(self.num_outputs, name="model1_8")(widened(x))

    def _activated(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return nn.relu(x) if self.relu else x

    def _check_size(self, features: int, shape: tuple[Any, ...]) -> None:
        hidden = self.variables.get("params", {}).get("model1_7")
        if hidden is not None and hidden["kernel"].shape[0] != features:
            pixels = hidden["kernel"].shape[0] // _WIDTHS[-1] * 64
            raise ValueError(f"this Mynn was initialised with images of {pixels} pixels, not {shape[1]}×{shape[2]}")
