"""The operation as its users call it: checks, dtypes, and the choice of an implementation."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kernels.explicit import by_device
from kernels.max_pool import Layout, max_pool
from kernels.norm_act_pool import fused, reference
from kernels.platform import is_cpu
from kernels.precision import wide
from kernels.varying import Axes, names_of, vary_alike

Implementation: TypeAlias = Literal["reference", "fused"]

_IMPLEMENTATIONS: dict[str, Callable[..., tuple[Array, Array, Array]]] = {
    "reference": reference.norm_act_pool,
    "fused": fused.norm_act_pool,
}


def norm_act_pool(
    x: Float[ArrayLike, "..."],
    scale: Float[ArrayLike, "C"],
    bias: Float[ArrayLike, "C"],
    slope: Float[ArrayLike, ""] | None,
    *,
    pool: bool,
    layout: Layout = "NHWC",
    axis_name: Axes | None = None,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "C"], Float[Array, "C"]]:
    """BatchNorm by the batch's own statistics, PReLU, and max-pooling, in training.

    y = max over 2×2 windows of PReLU(scale · (x − mean) / √(var + 1e-5) + bias), as from PyTorch's BatchNorm2d, PReLU
    and MaxPool2d(2) in a row. The first of equal maxima in row-major order gets the gradient, or the last NaN; a last
    odd row or column is dropped. Ioffe & Szegedy 2015, arXiv:1502.03167; He et al. 2015, arXiv:1502.01852.

    Usable under jit, vmap, grad (in reverse mode), pmap and shard_map, on meshes of any kind: of images that a mesh
    splits, the statistics are of the whole batch. It computes in float32, or in float64 for x in float64.

    Args:
      x: [N, H, W, C], or [H, W, C, N] for layout "HWCN".
      scale, bias: [C], BatchNorm's γ and β.
      slope: PReLU's factor for negative numbers, any number; None leaves the activation out.
      pool: whether to take the maximum over 2×2 windows, 2 apart.
      layout: of x and y.
      axis_name: a mapped axis (of pmap, shard_map or vmap) whose members share their statistics, so that the result
        is as for one batch of all their images (SyncBatchNorm). Each member has its own part of the gradients of
        scale, bias and slope, which are to be summed as any gradients are.
      implementation: a name is used or refused; None is "fused" on a CPU and else "reference".

    Returns:
      y, in the dtype of x, [N, H // 2, W // 2, C] with `pool`; mean and biased var of the batch, [C], for running
      statistics. (PyTorch's running variance takes var · M / (M − 1), M = N·H·W.) Gradients go through y alone: the
      outputs mean and var have none.

    Raises:
      ValueError: for shapes that do not fit, x of integers, or an unknown layout or implementation.
    """
    x, scale, bias = jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)
    _check(x, slope, pool=pool, layout=layout, scale=scale, bias=bias)
    if implementation not in (None, *_IMPLEMENTATIONS):
        known = ", ".join(_IMPLEMENTATIONS)
        raise ValueError(f"norm_act_pool has no implementation {implementation!r}; there is {known}, or None to choose")
    operation = _IMPLEMENTATIONS[implementation or ("fused" if is_cpu() else "reference")]
    named = () if axis_name is None else names_of(axis_name)

    def of_device(axes: tuple[str, ...], *arrays: Array | None) -> tuple[Array, Array, Array]:
        return operation(*vary_alike(*arrays), pool=pool, layout=layout, axis_names=(*named, *axes))

    y, mean, var = by_device(of_device, layout, *_widened(x, x, scale, bias, slope), statistics=2)
    return y.astype(x.dtype), mean, var


def norm_act_pool_inference(
    x: Float[ArrayLike, "..."],
    scale: Float[ArrayLike, "C"],
    bias: Float[ArrayLike, "C"],
    slope: Float[ArrayLike, ""] | None,
    mean: Float[ArrayLike, "C"],
    var: Float[ArrayLike, "C"],
    *,
    pool: bool,
    layout: Layout = "NHWC",
) -> Float[Array, "..."]:
    """`norm_act_pool` with given (running) statistics, by which no image depends on another."""
    x = jnp.asarray(x)
    of_channels = {"scale": scale, "bias": bias, "mean": mean, "var": var}
    _check(x, slope, pool=pool, layout=layout, **{name: jnp.asarray(array) for name, array in of_channels.items()})
    y = fused.activate(*_widened(x, x, slope, scale, bias, mean, var), layout=layout)
    return (max_pool(y, layout=layout) if pool else y).astype(x.dtype)


def _check(x: Array, slope: ArrayLike | None, *, pool: bool, layout: str, **of_channels: Array) -> None:
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


def _widened(x: Array, *arrays: ArrayLike | None) -> list[Any]:
    """The arrays in the dtype to compute in for x."""
    dtype = wide(x.dtype)
    return [None if array is None else jnp.asarray(array, dtype) for array in arrays]
