"""Which implementation serves which convolution on which platform, and which form of the DFT: the one place.

The thresholds are read off `python -m kernels.conv2d.measure`, which times every implementation on the layers of this
project's networks. Nothing is tuned while a program runs.
"""

from jaxtyping import Array

from kernels.conv2d.transforms import Plan
from kernels.platform import is_cpu

# Output pixels along a side of `tiled`'s tiles, at most, and how many points a row of such tiles may have; if it has
# more, tiles of half that side have a quarter less, nearer to the processor.
TILE, _MANY_POINTS = 28, 2**23


def preferences(x: Array, w: Array, *, layout: str) -> tuple[str, ...]:
    """Names of implementations, the best first, on the default backend; those that refuse are to be passed over."""
    size = max(x.shape[layout.index("H")], x.shape[layout.index("W")])
    if not is_cpu() or w.shape[0] == 1:  # filters of one pixel are a matrix product already
        return ("xla",)
    if size > 40:
        return ("tiled", "xla")
    if x.shape[layout.index("N")] < 16:  # transforming the filters would take most of the time
        return ("xla",)
    if w.shape[2] == 1:
        return ("toeplitz", "xla")
    return ("dft", "xla")


def tile_limit(size: tuple[int, int], k: int, batch: int, w_shape: tuple[int, ...]) -> int:
    """The most output pixels along a side of a tile, for an output of `size`."""
    side = TILE + k - 1
    points = side * side * -(-size[1] // TILE) * batch * max(w_shape[2:])
    return TILE // 2 if points > _MANY_POINTS else TILE


def dft_plan(size: tuple[int, int], c_in: int, c_out: int) -> Plan:
    """A dense transform while it is small; Gauss's trick once products over channels outweigh reads and writes."""
    return Plan(dense=max(size) <= 9, gauss=min(c_in, c_out) >= 64)
