"""The operation as its users call it: checks, dtypes, and the choice of an implementation."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.norm_act_pool import fused, reference
from kernels.platform import is_cpu
from kernels.precision import wide
from kernels.varying import vary_alike

Implementation: TypeAlias = Literal["reference", "fused"]
Layout: TypeAlias = Literal["NHWC", "HWCN"]

_IMPLEMENTATIONS: dict[str, Callable[..., tuple[Array, Array, Array]]] = {
    "reference": reference.norm_act_pool,
    "fused": fused.norm_act_pool,
}


def norm_act_pool(
    x: Float[Array, "..."],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    slope: Float[Array, ""] | None,
    *,
    pool: bool,
    layout: Layout = "NHWC",
    axis_name: str | None = None,
    epsilon: float = 1e-5,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "C"], Float[Array, "C"]]:
    """BatchNorm by the batch's own statistics, PReLU, and max-pooling, in training.

    y = max over 2×2 windows of PReLU(scale · (x − mean) / √(var + ε) + bias), as PyTorch's BatchNorm2d, PReLU and
    MaxPool2d(2) give it one after the other. Of equal maxima the first in row-major order gets the gradient; a last
    odd row or column is dropped. Ioffe & Szegedy 2015, arXiv:1502.03167; He et al. 2015, arXiv:1502.01852.

    Usable under jit, vmap, grad (in reverse mode), pmap and shard_map. It computes in float32, or in float64 if x is
    that.

    Args:
      x: [N, H, W, C], or [H, W, C, N] for layout "HWCN".
      scale, bias: [C], BatchNorm's γ and β.
      slope: PReLU's factor for negative numbers, of any size and sign; None leaves the activation out.
      pool: whether to take the maximum over 2×2 windows, 2 apart.
      layout: of x and y.
      axis_name: a mapped axis (of pmap, shard_map or vmap) whose members share their statistics, so that the result
        is that of one batch of all of them (SyncBatchNorm). Gradients of scale, bias and slope are each member's
        own part, to be summed, as those of anything else.
      epsilon: added to the variance.
      implementation: a name is used or refused; None is "fused" on a CPU and else "reference".

    Returns:
      y, in the dtype of x, [N, H // 2, W // 2, C] with `pool`; mean and biased var of the batch, [C], for running
      statistics. (PyTorch's running variance takes var · M / (M − 1), M = N·H·W.) Gradients go through y alone: mean
      and var as outputs have none.

    Raises:
      ValueError: for shapes that do not fit, x of integers, or an unknown layout or implementation.
    """
    _check(x, slope, pool=pool, layout=layout, scale=scale, bias=bias)
    if implementation not in (None, *_IMPLEMENTATIONS):
        known = ", ".join(_IMPLEMENTATIONS)
        raise ValueError(f"norm_act_pool has no implementation {implementation!r}; there is {known}, or None to choose")
    name = implementation or ("fused" if is_cpu() else "reference")
    arguments = vary_alike(*_widened(x, x, scale, bias, slope))
    y, mean, var = _IMPLEMENTATIONS[name](*arguments, pool=pool, layout=layout, axis_name=axis_name, epsilon=epsilon)
    return y.astype(x.dtype), mean, var


def norm_act_pool_inference(
    x: Float[Array, "..."],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    slope: Float[Array, ""] | None,
    mean: Float[Array, "C"],
    var: Float[Array, "C"],
    *,
    pool: bool,
    layout: Layout = "NHWC",
    epsilon: float = 1e-5,
) -> Float[Array, "..."]:
    """The same with given (running) statistics. See `norm_act_pool`; every image is then on its own."""
    x = jnp.asarray(x)
    _check(x, slope, pool=pool, layout=layout, scale=scale, bias=bias, mean=mean, var=var)
    apply = fused.apply if is_cpu() else reference.apply
    y = apply(*_widened(x, x, scale, bias, slope, mean, var), pool=pool, layout=layout, epsilon=epsilon)
    return y.astype(x.dtype)


def _check(x: Array, slope: Array | None, *, pool: bool, layout: str, **of_channels: Array) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"norm_act_pool knows the layouts {', '.join(get_args(Layout))}, not {layout!r}")
    if x.ndim != 4:
        raise ValueError(f"norm_act_pool takes images [{layout}], not {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"norm_act_pool takes images in floating point, not {x.dtype}")
    channels = (x.shape[layout.index("C")],)
    for name, array in of_channels.items():
        if array.shape != channels:
            raise ValueError(f"x {x.shape} [{layout}] takes a {name} of {channels}, not {array.shape}")
    if slope is not None and jnp.shape(slope) != ():
        raise ValueError(f"norm_act_pool takes one slope, a scalar array, not {jnp.shape(slope)}")
    if pool and min(x.shape[layout.index("H")], x.shape[layout.index("W")]) < 2:
        raise ValueError(f"x {x.shape} [{layout}] is too small for 2×2 windows")


def _widened(x: Array, *arrays: Array | None) -> list[Any]:
    dtype = wide(x.dtype)
    return [None if array is None else jnp.asarray(array, dtype) for array in arrays]
