"""Convolution of large images as a DFT of small overlapping tiles (overlap-save)."""

from jaxtyping import Array, Float

from kernels.conv2d.reference import Padding


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k k c_in c_out"], *, stride: int, padding: Padding, layout: str
) -> Float[Array, "..."]:
    raise NotImplementedError("tiled")
