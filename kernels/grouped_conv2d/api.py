"""The operation as its users call it: checks, and the choice of an implementation."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kernels.explicit import by_device
from kernels.grouped_conv2d import reference, taps, xla
from kernels.platform import is_cpu
from kernels.varying import vary_alike

Implementation: TypeAlias = Literal["reference", "xla", "taps"]

_IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "reference": reference.grouped_conv2d,
    "xla": xla.grouped_conv2d,
    "taps": taps.grouped_conv2d,
}


def grouped_conv2d(
    x: Float[ArrayLike, "N H W C_in"],
    w: Float[ArrayLike, "k_h k_w i C_out"],
    *,
    groups: int,
    stride: int = 1,
    padding: int = 0,
    implementation: Implementation | None = None,
) -> Float[Array, "N H_out W_out C_out"]:
    """Convolves each of `groups` equal blocks of channels with filters of its own, as PyTorch's `Conv2d(groups=…)`.

    With as many groups as channels it is the depthwise convolution. Differentiable in x and w, in reverse mode; usable
    under jit, vmap, grad, pmap and shard_map, on meshes of any kind. The result has the dtype of the inputs; it adds up
    in float32, or float64.

    Args:
      x: [N, H, W, C_in].
      w: [k_h, k_w, C_in / groups, C_out], of the dtype of x; the first C_out / groups filters are the first group's.
      groups: their number, of which C_in and C_out are multiples.
      stride: of both axes.
      padding: zeros on every side.
      implementation: a name is used or refused; None is "taps" on a CPU and else "xla".

    Returns:
      [N, H', W', C_out], with H' = (H + 2·padding − k_h) // stride + 1, and likewise W'.

    Raises:
      ValueError: for arrays that do not fit together, or an unknown implementation.
    """
    images, filters = jnp.asarray(x), jnp.asarray(w)
    _check(images, filters, groups, stride, padding, implementation)
    convolve = _IMPLEMENTATIONS[implementation or ("taps" if is_cpu() else "xla")]

    def of_device(axes: tuple[str, ...], x: Array, w: Array) -> Array:
        x, w = vary_alike(x, w)
        return convolve(x, w, groups=groups, stride=stride, padding=padding)

    return by_device(of_device, "NHWC", images, filters)


def _check(x: Array, w: Array, groups: int, stride: int, padding: int, implementation: str | None) -> None:
    if implementation not in (None, *_IMPLEMENTATIONS):
        known = ", ".join(_IMPLEMENTATIONS)
        raise ValueError(
            f"grouped_conv2d has no implementation {implementation!r}; there is {known}, or None to choose"
        )
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"grouped_conv2d takes images [NHWC] and filters [HWIO], not x {x.shape} and w {w.shape}")
    if groups < 1 or x.shape[3] != groups * w.shape[2] or w.shape[3] % groups:
        raise ValueError(f"x {x.shape} [NHWC] and w {w.shape} [HWIO] do not divide into {groups} groups of channels")
    if x.dtype != w.dtype:
        raise ValueError(f"grouped_conv2d takes x and w of one dtype, not {x.dtype} and {w.dtype}")
    if stride < 1 or padding < 0:
        raise ValueError(f"grouped_conv2d takes a stride of 1 or more and no negative padding, not {stride}, {padding}")
    if x.shape[1] + 2 * padding < w.shape[0] or x.shape[2] + 2 * padding < w.shape[1]:
        raise ValueError(f"filters {w.shape[:2]} do not fit in images {x.shape[1:3]} padded by {padding}")
