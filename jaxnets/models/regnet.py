"""RegNetX as torchvision has it: Radosavovic et al. 2020, arXiv:2003.13678."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxnets.models.layers import BatchNorm, Linear, Norm, conv_norm, widened
from kernels.varying import Axes


class RegNetX(nn.Module):
    """Images [N, H, W, C] in [0, 1] -> scores [N, num_outputs], float32.

    `depths` and `widths` are the stages', widths multiples of `group_width`. Submodules are named as torchvision's,
    with "_" for "." before a number. `dtype` is the dtype to compute in, None the images' own; weights and BatchNorm's
    statistics stay float32. `axis_name` synchronises BatchNorm over a mapped axis.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int
    num_outputs: int = 2
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        norm = partial(BatchNorm, train, axis_name)
        x = jnp.asarray(images, self.dtype)
        x = nn.relu(conv_norm(x, 32, 3, norm, ("stem_0", "stem_1"), stride=2))
        x = Trunk(self.depths, self.widths, self.group_width, norm, name="trunk_output")(x)
        head = Linear(self.num_outputs, kernel_init=nn.initializers.normal(0.01), name="fc")
        return head(widened(x).mean((1, 2)))


class Trunk(nn.Module):
    """The stages, each of which halves the image."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            x = Stage(i, depth, width, self.group_width, self.norm, name=f"block{i}")(x)
        return x


class Stage(nn.Module):
    """Blocks of one width; the first has stride 2."""

    index: int
    depth: int
    width: int
    group_width: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        for i in range(self.depth):
            x = Block(self.width, 1 if i else 2, self.group_width, self.norm, name=f"block{self.index}-{i}")(x)
        return x


class Block(nn.Module):
    """ReLU(x + f(x)), with x projected where its shape changes."""

    width: int
    stride: int
    group_width: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        y = Transform(self.width, self.stride, self.group_width, self.norm, name="f")(x)
        if self.stride != 1 or x.shape[3] != self.width:
            x = conv_norm(x, self.width, 1, self.norm, ("proj_0", "proj_1"), stride=self.stride)
        return nn.relu(x + y)


class Transform(nn.Module):
    """1×1, 3×3 in groups, 1×1, all of one width."""

    width: int
    stride: int
    group_width: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H_out W_out D"]:
        groups = self.width // self.group_width
        x = nn.relu(conv_norm(x, self.width, 1, self.norm, ("a_0", "a_1")))
        x = nn.relu(conv_norm(x, self.width, 3, self.norm, ("b_0", "b_1"), stride=self.stride, groups=groups))
        return conv_norm(x, self.width, 1, self.norm, ("c_0", "c_1"))
