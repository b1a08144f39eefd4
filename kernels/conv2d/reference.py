"""The definition: XLA's own convolution. Every other implementation gives these numbers."""

from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k_h k_w c_in c_out"], *, stride: int, padding: Padding, layout: str
) -> Float[Array, "..."]:
    """y[i, j, o] = Σ_{s, t, c} w[s, t, c, o] · x[stride·i + s − top, stride·j + t − left, c], x being 0 outside."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=(layout, "HWIO", layout), precision=lax.Precision.HIGHEST
    )
