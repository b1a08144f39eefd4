"""The operation as its users call it: checks, and the choice of an implementation."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.max_pool import reference, winners
from kernels.max_pool.windows import Windows
from kernels.platform import is_cpu

Implementation: TypeAlias = Literal["reference", "winners"]
Layout: TypeAlias = Literal["NHWC", "HWCN"]

_IMPLEMENTATIONS: dict[str, Callable[[Array, Windows], Array]] = {
    "reference": reference.max_pool,
    "winners": winners.max_pool,
}
_LARGEST = 11  # A place in a window of 11×11 still fits a byte.


def max_pool(
    x: Float[Array, "..."],
    *,
    size: int = 2,
    stride: int = 2,
    padding: int = 0,
    layout: Layout = "NHWC",
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """The maximum of each window of an image, exactly as PyTorch's `MaxPool2d(size, stride, padding)`.

    Of equal maxima the first in row-major order gets the gradient; rows and columns that fill no window are dropped.
    Usable under jit, vmap, grad (in reverse mode), pmap and shard_map. The result has the dtype of x, and no value is
    rounded.

    Args:
      x: [N, H, W, C], or [H, W, C, N] for layout "HWCN".
      size: of the square windows, in pixels a side.
      stride: from one window to the next, on both axes.
      padding: pixels of −∞ on every side, at most half of `size`.
      layout: of x and of the result.
      implementation: a name is used or refused; None is "winners" on a CPU and else "reference".

    Returns:
      [N, H', W', C] or [H', W', C, N], with H' = (H + 2·padding − size) // stride + 1, and likewise W'.

    Raises:
      ValueError: for windows that do not fit, or an unknown layout or implementation.
    """
    x = jnp.asarray(x)
    if layout not in get_args(Layout):
        raise ValueError(f"max_pool knows the layouts {', '.join(get_args(Layout))}, not {layout!r}")
    if implementation not in (None, *_IMPLEMENTATIONS):
        known = ", ".join(_IMPLEMENTATIONS)
        raise ValueError(f"max_pool has no implementation {implementation!r}; there is {known}, or None to choose")
    if x.ndim != 4:
        raise ValueError(f"max_pool takes images [{layout}], not {x.shape}")
    if not 1 <= size <= _LARGEST or stride < 1 or not 0 <= 2 * padding <= size:
        raise ValueError(
            f"max_pool takes a size of 1 to {_LARGEST}, a stride of 1 or more and a padding of at most half the size, "
            f"not {size}, {stride} and {padding}"
        )
    windows = Windows(size, stride, padding, layout)
    if min(windows.count(x.shape[axis]) for axis in windows.axes) < 1:
        raise ValueError(f"x {x.shape} [{layout}], padded by {padding}, is too small for {size}×{size} windows")
    name = implementation or ("winners" if is_cpu() else "reference")
    return _IMPLEMENTATIONS[name](x, windows)
