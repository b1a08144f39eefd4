"""The operation as its users call it: checks, padding, and the choice of an implementation."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from kernels.conv2d import choice, dft, reference, squares, tiled, toeplitz, xla
from kernels.max_pool import max_pool
from kernels.varying import vary_alike

Implementation: TypeAlias = Literal["reference", "xla", "dft", "toeplitz", "tiled", "squares"]
Layout: TypeAlias = Literal["NHWC", "HWCN"]
Padding: TypeAlias = int | tuple[tuple[int, int], tuple[int, int]] | Literal["SAME", "VALID"]


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
    x: Float[Array, "..."],
    w: Float[Array, "k_h k_w c_in c_out"],
    *,
    stride: int = 1,
    padding: Padding,
    layout: Layout = "NHWC",
    pool: bool = False,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Convolves images with a bank of filters, exactly as `lax.conv_general_dilated` does.

    Differentiable in `x` and `w`, in reverse mode (in forward mode "reference" and "xla" are); usable under jit, vmap,
    grad, pmap and shard_map. Every implementation gives the same numbers up to rounding: about 1e-6 of the largest
    value in float32. The result has the dtype of the inputs.

    Args:
      x: [N, H, W, C_in], or [H, W, C_in, N] for layout "HWCN".
      w: [k_h, k_w, C_in, C_out], of the dtype of x.
      stride: of both axes.
      padding: zeros on every side; or ((top, bottom), (left, right)); or "SAME" or "VALID".
      layout: of x and of the result. "HWCN" (batch minor) is what the matrix-product implementations compute in.
      pool: whether to take the maxima of 2×2 windows of the result, 2 apart (see `kernels.max_pool`), which `tiled` and
        `squares` take before they write anything out.
      implementation: a name is used or refused; None chooses by platform and shape (see `kernels.conv2d.choice`).

    Returns:
      [N, H', W', C_out] or [H', W', C_out, N], with H' = (H + top + bottom − k_h) // stride + 1, and likewise W'; with
      `pool`, half as many, rounded down.

    Raises:
      ValueError: for arrays that do not fit together, or an unknown layout or implementation.
      NotImplementedError: from a named implementation that cannot serve these arguments.
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    _check(x, w, stride, layout, implementation)
    pads = _explicit(padding, x, w, stride, layout)
    x, w = vary_alike(x, w)
    arguments: dict[str, Any] = {"stride": stride, "padding": pads, "layout": layout, "pool": pool}
    if pool:
        _refuse_too_small(x, w, stride, pads, layout)
    if implementation is None and x.size == 0:
        implementation = "xla"  # there is nothing to be fast at
    if implementation is not None:
        return _IMPLEMENTATIONS[implementation](x, w, **arguments)
    for name in choice.preferences(x, w, layout=layout):
        try:
            return _IMPLEMENTATIONS[name](x, w, **arguments)
        except NotImplementedError:
            continue
    return _IMPLEMENTATIONS["xla"](x, w, **arguments)


def _check(x: Array, w: Array, stride: int, layout: str, implementation: str | None) -> None:
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
    if stride < 1:
        raise ValueError(f"conv2d takes a stride of at least 1, not {stride}")


def _refuse_too_small(x: Array, w: Array, stride: int, pads: reference.Padding, layout: str) -> None:
    sides = (x.shape[layout.index("H")], x.shape[layout.index("W")])
    out = tuple((n + sum(of) - k) // stride + 1 for n, of, k in zip(sides, pads, w.shape, strict=False))
    if min(out) < 2:
        raise ValueError(f"a result of {out} pixels is too small for 2×2 windows")


def _explicit(padding: Padding, x: Array, w: Array, stride: int, layout: str) -> reference.Padding:
    size = x.shape[layout.index("H")], x.shape[layout.index("W")]
    match padding:
        case "SAME" | "VALID":
            rows, columns = lax.padtype_to_pads(size, w.shape[:2], (stride, stride), padding)
        case int() | np.integer():
            rows = columns = (int(padding), int(padding))
        case (top, bottom), (left, right):
            rows, columns = (top, bottom), (left, right)
        case _:
            raise ValueError(
                f"conv2d takes a padding of one number, ((top, bottom), (left, right)), SAME or VALID, not {padding!r}"
            )
    for length, k, (low, high) in zip(size, w.shape[:2], (rows, columns), strict=True):
        if length + low + high < k:
            raise ValueError(f"filters {w.shape[:2]} do not fit in images {size} padded by {(rows, columns)}")
    return (int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1]))
