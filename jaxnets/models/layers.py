"""Building blocks that behave as PyTorch's do: initialisation, BatchNorm's running statistics, one-slope PReLU.

Activations are held in the layout that is fast on the platform, decided here once: batch last ([H, W, C, N]) on the
CPU, where a convolution is a handful of matrix products with the batch as their long side, batch first ([N, H, W, C])
elsewhere. A network enters it with `from_nhwc`, leaves it with `flatten`, and nothing between the two transposes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kernels.conv2d import Layout, conv2d
from kernels.norm_act_pool import norm_act_pool, norm_act_pool_inference

Initializer = Callable[..., Array]


def native_layout() -> Layout:
    """The layout of activations that is fast on the default backend."""
    return "HWCN" if jax.default_backend() == "cpu" else "NHWC"


def from_nhwc(images: Float[Array, "N H W C"], layout: Layout) -> Float[Array, "..."]:
    return images.transpose(1, 2, 3, 0) if layout == "HWCN" else images


def flatten(x: Float[Array, "..."], layout: Layout) -> Float[Array, "N F"]:
    """Features in the order row, column, channel, whichever the layout."""
    return x.reshape(-1, x.shape[-1]).T if layout == "HWCN" else x.reshape(x.shape[0], -1)


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(−b, b) with b = 1/√fan_in: what PyTorch's default for weights, kaiming-uniform with a = √5, comes to."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """y = x·kernel + bias, initialised as `torch.nn.Linear`."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "N F"]) -> Float[Array, "N G"]:
        init = uniform_fan_in(x.shape[1])
        kernel = self.param("kernel", init, (x.shape[1], self.features))
        bias = self.param("bias", init, (self.features,))
        return x @ kernel + bias[None, :]


class Conv(nn.Module):
    """A stride-1 convolution with bias, initialised as `torch.nn.Conv2d`. Kernel [k, k, in, out]."""

    features: int
    kernel_size: int
    padding: int
    layout: Layout

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        channel_axis = self.layout.index("C")
        fan_in = self.kernel_size**2 * x.shape[channel_axis]
        init = uniform_fan_in(fan_in)
        kernel = self.param("kernel", init, (self.kernel_size, self.kernel_size, x.shape[channel_axis], self.features))
        bias = self.param("bias", init, (self.features,))
        y = conv2d(x, kernel, padding=self.padding, layout=self.layout)
        return y + jnp.expand_dims(bias, [axis for axis in range(4) if axis != channel_axis])


class ConvLayer(nn.Module):
    """Convolution without bias, BatchNorm, PReLU with one slope, and a 2×2 max-pool where `pool` says so.

    As in PyTorch: BatchNorm's eps is 1e-5; in training its running statistics take a tenth of the batch's, the variance
    unbiased (divided by M − 1), and the batch itself is normalised with the biased one; the slope starts at 0.25.
    With `axis_name` the statistics are those of the whole batch over that mapped axis.
    """

    features: int
    kernel_size: int
    padding: int
    layout: Layout
    pool: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        channels = x.shape[self.layout.index("C")]
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", uniform_fan_in(math.prod(shape[:3])), shape)
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        slope = self.param("slope", nn.initializers.constant(0.25), ())
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (self.features,))

        y = conv2d(x, kernel, padding=self.padding, layout=self.layout)
        if not train:
            return norm_act_pool_inference(
                y, scale, bias, slope, running_mean.value, running_var.value, pool=self.pool, layout=self.layout
            )
        count = y.size // self.features * (1 if self.axis_name is None else jax.lax.axis_size(self.axis_name))
        out, mean, var = norm_act_pool(
            y, scale, bias, slope, pool=self.pool, layout=self.layout, axis_name=self.axis_name
        )
        if not self.is_initializing():
            unbiased = var * (count / max(count - 1, 1))
            running_mean.value = 0.9 * running_mean.value + 0.1 * jax.lax.stop_gradient(mean)
            running_var.value = 0.9 * running_var.value + 0.1 * jax.lax.stop_gradient(unbiased)
        return out
