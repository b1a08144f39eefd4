"""XLA's convolution, handed over in the layout that its backends are fast in."""

from jax import lax
from jaxtyping import Array, Float

from kernels.conv2d.reference import Padding


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k_h k_w c_in c_out"], *, stride: int, padding: Padding, layout: str
) -> Float[Array, "..."]:
    """As `reference`, at the default precision, and always through NHWC.

    XLA:CPU sends only NHWC convolutions to its fast routine; any other layout is a plain loop, slower than two
    transpositions. On a GPU this allows TF32, as everything in JAX does unless told otherwise.
    """
    if layout == "HWCN":
        x = x.transpose(3, 0, 1, 2)
    y = lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.transpose(1, 2, 3, 0) if layout == "HWCN" else y
