"""The operation as its users call it: checks, padding, and the choice of an implementation."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kernels.conv2d import choice, dft, reference, squares, tiled, toeplitz, xla
from kernels.explicit import by_device
from kernels.max_pool import Layout as Layout
from kernels.max_pool import max_pool
from kernels.varying import vary_alike

Implementation: TypeAlias = Literal["reference", "xla", "dft", "toeplitz", "tiled", "squares"]


def _pooling(convolve: Callable[..., Array]) -> Callable[..., Array]:
    def conv2d(x: Array, w: Array, *, layout: Layout, pool: bool, **arguments: Any) -> Array:
        y = convolve(x, w, layout=layout, **arguments)
        return max_pool(y, layout=layout) if pool else y

    return conv2d


_IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "reference": _pooling(reference.conv2d),
    "xla": _pooling(xla.conv2d),
    "dft": _pooling(dft.conv2d),
    "toeplitz": _pooling(toeplitz.conv2d),
    "tiled": tiled.conv2d,
    "squares": squares.conv2d,
}


def conv2d(
    x: Float[ArrayLike, "..."],
    w: Float[ArrayLike, "k_h k_w c_in c_out"],
    *,
    stride: int = 1,
    padding: int,
    layout: Layout = "NHWC",
    pool: bool = False,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Convolves images with a bank of filters, as PyTorch's `Conv2d` does.

    Differentiable in `x` and `w` in reverse mode, and by "reference" and "xla" in forward mode too; usable under jit,
    vmap, grad, pmap and shard_map, on meshes of any kind. All implementations give the same numbers up to rounding:
    about 1e-6 of the largest value in float32. The result has the dtype of the inputs.

    Args:
      x: [N, H, W, C_in], or [H, W, C_in, N] for layout "HWCN".
      w: [k_h, k_w, C_in, C_out], of the dtype of x.
      stride: of both axes.
      padding: rows and columns of zeros on every side.
      layout: of x and of the result. The implementations of matrix products compute in "HWCN" (batch minor).
      pool: whether to take the maxima of 2×2 windows of the result, 2 apart (see `kernels.max_pool`). `tiled` and
        `squares` take them before they write anything out.
      implementation: a name is used or refused; None chooses by platform and shape (see `kernels.conv2d.choice`).

    Returns:
      [N, H', W', C_out] or [H', W', C_out, N], with H' = (H + 2·padding − k_h) // stride + 1, and likewise W'; with
      `pool`, half as many, rounded down.

    Raises:
      ValueError: for arrays that do not fit together, or an unknown layout or implementation.
      NotImplementedError: from a named implementation that cannot serve these arguments.
    """
    images, filters = jnp.asarray(x), jnp.asarray(w)
    _check(images, filters, stride, padding, layout, pool, implementation)
    if implementation is not None:
        names: tuple[str, ...] = (implementation,)
    elif images.size == 0:
        names = ("xla",)  # an empty result needs no speed
    else:
        names = choice.preferences(images, filters, layout=layout)

    def first_to_serve(axes: tuple[str, ...], x: Array, w: Array) -> Array:
        x, w = vary_alike(x, w)
        arguments: dict[str, Any] = {"stride": stride, "padding": padding, "layout": layout, "pool": pool}
        for name in names[:-1]:
            try:
                return _IMPLEMENTATIONS[name](x, w, **arguments)
            except NotImplementedError:
                continue
        return _IMPLEMENTATIONS[names[-1]](x, w, **arguments)

    return by_device(first_to_serve, layout, images, filters)


def _check(x: Array, w: Array, stride: int, padding: int, layout: str, pool: bool, implementation: str | None) -> None:
    if layout not in get_args(Layout):
        raise ValueError(f"conv2d knows the layouts {', '.join(get_args(Layout))}, not {layout!r}")
    if implementation not in (None, *_IMPLEMENTATIONS):
        known = ", ".join(_IMPLEMENTATIONS)
        raise ValueError(f"conv2d has no implementation {implementation!r}; there is {known}, or None to choose")
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"conv2d takes images [{layout}] and filters [HWIO], not x {x.shape} and w {w.shape}")
    if x.shape[layout.index("C")] != w.shape[2]:
        raise ValueError(f"x {x.shape} [{layout}] and w {w.shape} [HWIO] differ in their input channels")
    if x.dtype != w.dtype:
        raise ValueError(f"conv2d takes x and w of one dtype, not {x.dtype} and {w.dtype}")
    if stride < 1 or padding < 0:
        raise ValueError(f"conv2d takes a stride of 1 or more and no negative padding, not {stride} and {padding}")
    size = x.shape[layout.index("H")], x.shape[layout.index("W")]
    out = tuple((length + 2 * padding - k) // stride + 1 for length, k in zip(size, w.shape[:2], strict=True))
    if min(out) < 1:
        raise ValueError(f"filters {w.shape[:2]} do not fit in images {size} padded by {padding}")
    if pool and min(out) < 2:
        raise ValueError(f"a result of {out} pixels is too small for 2×2 windows")
