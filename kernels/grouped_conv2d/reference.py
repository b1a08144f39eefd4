"""The definition: XLA's own convolution. Every other implementation gives these numbers."""

from jax import lax
from jaxtyping import Array, Float


def grouped_conv2d(
    x: Float[Array, "N H W C_in"], w: Float[Array, "k_h k_w i C_out"], *, groups: int, stride: int, padding: int
) -> Float[Array, "N H_out W_out C_out"]:
    """y[n, i, j, o] = Σ_{s, t, c} w[s, t, c, o] · x[n, stride·i + s − padding, stride·j + t − padding, first + c], with
    `first` the first channel of o's group; x is 0 outside."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )
