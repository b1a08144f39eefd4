"""Which implementation serves which convolution on which platform, and which form of the DFT: the one place.

The thresholds are read off `python -m kernels.conv2d.measure`, which times every implementation on the layers of this
project's networks. Nothing is tuned while a program runs.
"""

import jax
from jaxtyping import Array

from kernels.conv2d.transforms import Plan
from kernels.platform import is_cpu

# Output pixels along a side of `tiled`'s tiles, at most, and how many points a row of such tiles may have: of more, few
# are left in a cache when they are needed next, and tiles of half that side are faster.
TILE, _MANY_POINTS = 28, 2**23


def preferences(x: Array, w: Array, *, layout: str) -> tuple[str, ...]:
    """Names of implementations, the best first, on the default backend; those that refuse are to be passed over."""
    sides = x.shape[layout.index("H")], x.shape[layout.index("W")]
    size = max(sides)
    if not is_cpu() or w.shape[0] == 1:  # filters of one pixel are a matrix product already
        return ("xla",)
    if size > 40:
        return ("squares", "tiled", "xla")
    if min(sides) < w.shape[0]:  # for images smaller than the filters XLA:CPU has plain loops alone
        return ("dft", "xla")
    if x.shape[layout.index("N")] < 16:  # transforming the filters would take most of the time
        return ("xla",)
    if w.shape[2] == 1:
        return ("toeplitz", "xla")
    return ("dft", "xla")


def tile_limit(width: int, k: int, batch: int, channels: int) -> int:
    """The most output pixels along a side of a tile, in an output so wide, with so many channels before or after."""
    points = (TILE + k - 1) ** 2 * -(-width // TILE) * batch * channels
    return TILE // 2 if points > _MANY_POINTS else TILE


def dft_plan(size: tuple[int, int], c_in: int, c_out: int) -> Plan:
    """A dense transform while it is small; Gauss's trick once products over channels outweigh reads and writes."""
    return Plan(dense=max(size) <= 9, gauss=min(c_in, c_out) >= 64)


def is_plain(channels: int) -> bool:
    """Whether a product over so many channels is better made as a·b than as aᵀ·b.

    The routine that XLA:CPU has for the first has been the faster for all products since JAX 0.12, and twice as fast as
    before; until then it was for large ones alone.
    """
    return jax.__version_info__ >= (0, 12) or channels >= 256
