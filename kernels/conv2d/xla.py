"""XLA's convolution in NHWC, the layout that its backends are fast in."""

from jax import lax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k_h k_w c_in c_out"], *, stride: int, padding: int, layout: str
) -> Float[Array, "..."]:
    """As `reference`, at the default precision, and always through NHWC.

    XLA:CPU has a fast routine for NHWC alone. In any other layout it runs a plain loop, which is slower than two
    transpositions. On a GPU the default precision allows TF32, as in all of JAX.
    """
    if layout == "HWCN":
        x = x.transpose(3, 0, 1, 2)
    y = lax.conv_general_dilated(
        x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.transpose(1, 2, 3, 0) if layout == "HWCN" else y
