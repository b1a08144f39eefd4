"""The definition, a line a step, differentiated by JAX."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.max_pool import Layout, max_pool

EPSILON = 1e-5  # PyTorch's


def norm_act_pool(
    x: Float[Array, "..."],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    slope: Float[Array, ""] | None,
    *,
    pool: bool,
    layout: Layout,
    axis_names: tuple[str, ...],
) -> tuple[Float[Array, "..."], Float[Array, "C"], Float[Array, "C"]]:
    """Statistics over all axes but the channels, and over `axis_names`; BatchNorm with these; PReLU; 2×2 maxima."""
    mean = _mean(x, layout, axis_names)
    # About the mean, in a second pass: E[x²] − E[x]² has no correct digit left once |mean| > 3000 std in float32.
    var = _mean(jnp.square(x - per_channel(mean, layout)), layout, axis_names)
    gain = scale * lax.rsqrt(var + EPSILON)
    y = (x - per_channel(mean, layout)) * per_channel(gain, layout) + per_channel(bias, layout)
    if slope is not None:
        y = jnp.where(y > 0, y, slope * y)
    if pool:
        y = max_pool(y, layout=layout)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def per_channel(v: Float[Array, "C"], layout: Layout) -> Float[Array, "..."]:
    """v [C], shaped to broadcast over images of this layout."""
    return v.reshape([-1 if axis == "C" else 1 for axis in layout])


def _mean(x: Float[Array, "..."], layout: Layout, axis_names: tuple[str, ...]) -> Float[Array, "C"]:
    mean = jnp.mean(x, [axis for axis, name in enumerate(layout) if name != "C"])
    return lax.pmean(mean, axis_names) if axis_names else mean
