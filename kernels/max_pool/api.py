"""The operation as its users call it: checks, and the choice of an implementation."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Shaped

from kernels.explicit import by_device
from kernels.max_pool import reference, winners
from kernels.max_pool.windows import Windows

Implementation: TypeAlias = Literal["reference", "winners"]
Layout: TypeAlias = Literal["NHWC", "HWCN"]

_IMPLEMENTATIONS: dict[str, Callable[[Array, Windows], Array]] = {
    "reference": reference.max_pool,
    "winners": winners.max_pool,
}
_LARGEST = 11  # A place in a window of 11×11 still fits a byte.


def max_pool(
    x: Shaped[ArrayLike, "..."],
    *,
    size: int = 2,
    stride: int = 2,
    padding: int = 0,
    layout: Layout = "NHWC",
    implementation: Implementation | None = None,
) -> Shaped[Array, "..."]:
    """The maximum of each window of an image, exactly as PyTorch's `MaxPool2d(size, stride, padding)`.

    The first of equal maxima in row-major order gets the gradient. A window with NaN gives NaN, and the last NaN gets
    the gradient. Padding never does. Rows and columns that fill no window are dropped. Usable under jit, vmap, grad (in
    reverse mode), pmap and shard_map, on meshes of any kind. The result has the dtype of x, and no value is rounded.

    Args:
      x: [N, H, W, C], or [H, W, C, N] for layout "HWCN", of floating point or integers.
      size: of the square windows, in pixels a side.
      stride: from one window to the next, on both axes.
      padding: pixels on every side that hold −∞, or the least integer; at most half of `size`.
      layout: of x and of the result.
      implementation: a name is used or refused; None is "winners".

    Returns:
      [N, H', W', C] or [H', W', C, N], with H' = (H + 2·padding − size) // stride + 1, and likewise W'.

    Raises:
      ValueError: for windows that do not fit, truth values or complex numbers, or an unknown layout or implementation.
    """
    x = jnp.asarray(x)
    if layout not in get_args(Layout):
        raise ValueError(f"max_pool knows the layouts {', '.join(get_args(Layout))}, not {layout!r}")
    if implementation not in (None, *_IMPLEMENTATIONS):
        known = ", ".join(_IMPLEMENTATIONS)
        raise ValueError(f"max_pool has no implementation {implementation!r}; there is {known}, or None to choose")
    if x.ndim != 4:
        raise ValueError(f"max_pool takes images [{layout}], not {x.shape}")
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise ValueError(f"max_pool takes floating point or integers, not {x.dtype}")
    if not 1 <= size <= _LARGEST or stride < 1 or not 0 <= 2 * padding <= size:
        raise ValueError(
            f"max_pool takes a size of 1 to {_LARGEST}, a stride of 1 or more and a padding of at most half the size, "
            f"not {size}, {stride} and {padding}"
        )
    windows = Windows(size, stride, padding, layout)
    if min(windows.count(x.shape[axis]) for axis in windows.axes) < 1:
        raise ValueError(f"x {x.shape} [{layout}], padded by {padding}, is too small for {size}×{size} windows")
    pool = _IMPLEMENTATIONS[implementation or "winners"]
    return by_device(lambda axes, x: pool(x, windows), layout, x)
