"""The definition: XLA's own convolution at full precision. Every other implementation gives these numbers."""

from jax import lax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k_h k_w c_in c_out"], *, stride: int, padding: int, layout: str
) -> Float[Array, "..."]:
    """y[i, j, o] = Σ_{s, t, c} w[s, t, c, o] · x[stride·i + s − padding, stride·j + t − padding, c]; x is 0 outside."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=(layout, "HWIO", layout),
        precision=lax.Precision.HIGHEST,
    )
