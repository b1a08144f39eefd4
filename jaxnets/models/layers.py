"""Building blocks that behave as PyTorch's: initialisation, BatchNorm's running statistics, PReLU with one slope.

A layer computes in the dtype of its input, to which it casts its weights. It adds up in float32, and statistics stay in
float32. So a network chooses its dtype by casting its images, and gets float32 scores by widening the input of its last
layer.

Activations have the layout that is fast on the platform, decided here once: batch last ([H, W, C, N]) on the CPU, for
which a convolution is a few matrix products with the batch as their long side; batch first ([N, H, W, C]) elsewhere. A
network enters it with `from_nhwc` and leaves it with `flatten`. Nothing between the two transposes.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kernels.conv2d import Layout, conv2d
from kernels.grouped_conv2d import grouped_conv2d
from kernels.norm_act_pool import norm_act_pool, norm_act_pool_inference
from kernels.platform import is_cpu
from kernels.precision import wide
from kernels.varying import Axes

Initializer = Callable[..., Array]
Norm: TypeAlias = Callable[..., nn.Module]


def native_layout() -> Layout:
    """The layout of activations that is fast on the default backend."""
    return "HWCN" if is_cpu() else "NHWC"


def from_nhwc(images: Float[Array, "N H W C"], layout: Layout) -> Float[Array, "..."]:
    return images.transpose(1, 2, 3, 0) if layout == "HWCN" else images


def flatten(x: Float[Array, "..."], layout: Layout) -> Float[Array, "N F"]:
    """Features in the order row, column, channel, whichever the layout."""
    return x.reshape(-1, x.shape[-1]).T if layout == "HWCN" else x.reshape(x.shape[0], -1)


def widened(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in the dtype of sums over it: float32, or float64 for x in float64."""
    return x.astype(wide(x.dtype))


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(−b, b) with b = 1/√fan_in, which is PyTorch's default for weights: kaiming-uniform with a = √5."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal_fan_out(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """N(0, 2 / (k²·out)) for kernels [k, k, in / groups, out] (He et al. 2015, arXiv:1502.01852): torchvision's."""
    return jax.random.normal(key, shape, dtype) * math.sqrt(2 / (shape[0] * shape[1] * shape[3]))


class Linear(nn.Module):
    """y = x·kernel + bias, initialised as `torch.nn.Linear`; with a `kernel_init` of its own, the bias starts at 0."""

    features: int
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "N F"]) -> Float[Array, "N G"]:
        default = uniform_fan_in(x.shape[1])
        kernel = self.param("kernel", self.kernel_init or default, (x.shape[1], self.features))
        bias = self.param("bias", nn.initializers.zeros if self.kernel_init else default, (self.features,))
        y = jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=wide(x.dtype))
        return (y + bias.astype(y.dtype)[None, :]).astype(x.dtype)


class Conv(nn.Module):
    """A convolution and, with `pool`, a 2×2 max-pool. Kernel [k, k, in / groups, out].

    Initialised as `torch.nn.Conv2d`; with a `kernel_init` of its own, the bias starts at 0. Groups need layout "NHWC",
    and have no pool.
    """

    features: int
    kernel_size: int
    padding: int
    layout: Layout = "NHWC"
    stride: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer | None = None
    pool: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        channel_axis = self.layout.index("C")
        shape = (self.kernel_size, self.kernel_size, x.shape[channel_axis] // self.groups, self.features)
        default = uniform_fan_in(math.prod(shape[:3]))
        kernel = self.param("kernel", self.kernel_init or default, shape).astype(x.dtype)
        if self.groups > 1:
            if self.pool or self.layout != "NHWC":
                raise ValueError("a Conv in groups takes layout NHWC and no pool")
            y = grouped_conv2d(x, kernel, groups=self.groups, stride=self.stride, padding=self.padding)
        else:
            y = conv2d(
                x,
                kernel,
                stride=self.stride,
                padding=self.padding,
                layout=self.layout,
                pool=self.pool,  # before the bias: rounding is monotonic, so the maxima are the same
                # Images with the batch first would be transposed for the CPU's fast products, which costs their gain;
                # but images smaller than the filters XLA:CPU convolves in plain loops.
                implementation="xla" if self.layout == "NHWC" and min(x.shape[1:3]) >= self.kernel_size else None,
            )
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros if self.kernel_init else default, (self.features,))
        return y + jnp.expand_dims(bias.astype(y.dtype), [axis for axis in range(4) if axis != channel_axis])


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d`, of images [N, H, W, C]; `ConvLayer` says how it trains.

    Without `use_scale` the scale is 1; without `train_scale` it is a parameter that gets no gradient.
    """

    train: bool
    axis_name: Axes | None = None
    use_scale: bool = True
    train_scale: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        scale = None if self.use_scale else jnp.ones(x.shape[3])
        if self.use_scale and not self.train_scale:
            scale = jax.lax.stop_gradient(self.param("scale", nn.initializers.ones, (x.shape[3],)))
        return _normalised(
            self, x, None, train=self.train, pool=False, layout="NHWC", axis_name=self.axis_name, scale=scale
        )


class PReLU(nn.Module):
    """`torch.nn.PReLU` with a slope for each channel: x where x > 0, else slopes·x; the slopes start at 0.25."""

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        slopes = self.param("slopes", nn.initializers.constant(0.25), (x.shape[3],))
        return jnp.where(x > 0, x, x * slopes.astype(x.dtype)[None, None, None, :])


def conv_norm(
    x: Float[Array, "N H W C"],
    features: int,
    kernel_size: int,
    norm: Norm,
    names: tuple[str, str],
    *,
    stride: int = 1,
    groups: int = 1,
) -> Float[Array, "N H_out W_out D"]:
    """torchvision's convolution without bias, padded by k // 2, and the norm after it: submodules named `names`."""
    conv, bn = names
    x = Conv(
        features,
        kernel_size,
        kernel_size // 2,
        stride=stride,
        groups=groups,
        use_bias=False,
        kernel_init=normal_fan_out,
        name=conv,
    )(x)
    return norm(name=bn)(x)


class ConvLayer(nn.Module):
    """Convolution without bias, BatchNorm, PReLU with one slope, and with `pool` a 2×2 max-pool.

    As in PyTorch: BatchNorm's eps is 1e-5; in training its running statistics take a tenth of the batch's, the variance
    unbiased (divided by M − 1), and the batch itself is normalised with the biased one; the slope starts at 0.25.
    With `axis_name` the statistics are taken over the whole batch on that mapped axis.
    """

    features: int
    kernel_size: int
    padding: int
    layout: Layout
    pool: bool = False
    axis_name: Axes | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
        channels = x.shape[self.layout.index("C")]
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", uniform_fan_in(math.prod(shape[:3])), shape).astype(x.dtype)
        slope = self.param("slope", nn.initializers.constant(0.25), ())
        y = conv2d(x, kernel, padding=self.padding, layout=self.layout)
        return _normalised(self, y, slope, train=train, pool=self.pool, layout=self.layout, axis_name=self.axis_name)


def _normalised(
    module: nn.Module,
    x: Float[Array, "..."],
    slope: ArrayLike | None,
    *,
    train: bool,
    pool: bool,
    layout: Layout,
    axis_name: Axes | None,
    scale: Float[Array, "C"] | None = None,
) -> Float[Array, "..."]:
    """`norm_act_pool` with variables of `module`: scale, bias, and running statistics, which training moves.

    A given `scale` is no variable. Where the statistics are not mutable, training normalises by them too.
    """
    shape = (x.shape[layout.index("C")],)
    if scale is None:
        scale = module.param("scale", nn.initializers.ones, shape)
    bias = module.param("bias", nn.initializers.zeros, shape)
    running_mean = module.variable("batch_stats", "mean", jnp.zeros, shape)
    running_var = module.variable("batch_stats", "var", jnp.ones, shape)
    if not train or not module.is_mutable_collection("batch_stats"):
        return norm_act_pool_inference(
            x, scale, bias, slope, running_mean.value, running_var.value, pool=pool, layout=layout
        )
    count = x.size // shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    out, mean, var = norm_act_pool(x, scale, bias, slope, pool=pool, layout=layout, axis_name=axis_name)
    if not module.is_initializing():
        unbiased = var * (count / max(count - 1, 1))
        running_mean.value = 0.9 * running_mean.value + 0.1 * jax.lax.stop_gradient(mean)
        running_var.value = 0.9 * running_var.value + 0.1 * jax.lax.stop_gradient(unbiased)
    return out
