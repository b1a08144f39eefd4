"""The one place that chooses an implementation for a convolution and a platform, and the form of a DFT.

The thresholds come from `python -m kernels.conv2d.measure`, which times every implementation on the layers of this
project's networks. Nothing is tuned while a program runs.
"""

import jax
from jaxtyping import Array

from kernels.conv2d.transforms import Form
from kernels.platform import is_cpu

# The most output pixels along a side of a tile of `tiled`, and the most points that a row of such tiles may have. A row
# with more points falls out of the cache before they are needed again: there, tiles of half that side are faster.
TILE, _MANY_POINTS = 28, 2**23


def preferences(x: Array, w: Array, *, layout: str) -> tuple[str, ...]:
    """Names of implementations on the default backend, the best first. Any may refuse but the last."""
    sides = x.shape[layout.index("H")], x.shape[layout.index("W")]
    size = max(sides)
    if not is_cpu() or w.shape[0] == 1:  # filters of one pixel are a matrix product already
        return ("xla",)
    if size > 40:
        return ("squares", "tiled", "xla")
    if min(sides) < w.shape[0]:  # XLA:CPU convolves images smaller than the filters in plain loops
        return ("dft", "xla")
    if x.shape[layout.index("N")] < 16:  # transforming the filters would take most of the time
        return ("xla",)
    if w.shape[2] == 1:
        return ("toeplitz", "xla")
    return ("dft", "xla")


def tile_limit(width: int, k: int, batch: int, channels: int) -> int:
    """The most output pixels along a side of a tile, for an output of this width, and the larger count of channels."""
    points = (TILE + k - 1) ** 2 * -(-width // TILE) * batch * channels
    return TILE // 2 if points > _MANY_POINTS else TILE


def dft_form(size: tuple[int, int], c_in: int, c_out: int) -> Form:
    """A dense transform while it is small; Gauss's trick once products over channels outweigh reads and writes."""
    return Form(dense=max(size) <= 9, gauss=min(c_in, c_out) >= 64)


def is_plain(channels: int) -> bool:
    """Whether a product over this many channels is faster as a·b than as aᵀ·b.

    XLA:CPU has a routine for either. Since JAX 0.12 the first is the faster for all products; before, only for large
    ones.
    """
    return jax.__version_info__ >= (0, 12) or channels >= 256
