"""The definition, a line a step, differentiated by JAX."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def norm_act_pool(
    x: Float[Array, "..."],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    slope: Float[Array, ""] | None,
    *,
    pool: bool,
    layout: str,
    axis_name: str | None,
    epsilon: float,
) -> tuple[Float[Array, "..."], Float[Array, "C"], Float[Array, "C"]]:
    """Batch statistics over all but the channels (and over `axis_name`), then `apply` with them."""
    mean = _mean(x, layout, axis_name)
    # About the mean, in a second pass: E[x²] − E[x]² has no correct digit left once |mean| > 3000 std in float32.
    var = _mean(jnp.square(x - per_channel(mean, layout)), layout, axis_name)
    y = apply(x, scale, bias, slope, mean, var, pool=pool, layout=layout, epsilon=epsilon)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


def apply(
    x: Float[Array, "..."],
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    slope: Float[Array, ""] | None,
    mean: Float[Array, "C"],
    var: Float[Array, "C"],
    *,
    pool: bool,
    layout: str,
    epsilon: float,
) -> Float[Array, "..."]:
    """max over 2×2 windows of PReLU(scale · (x − mean) / √(var + ε) + bias)."""
    gain = scale * lax.rsqrt(var + epsilon)
    y = (x - per_channel(mean, layout)) * per_channel(gain, layout) + per_channel(bias, layout)
    if slope is not None:
        y = jnp.where(y > 0, y, slope * y)
    if pool:
        window = tuple(2 if axis in "HW" else 1 for axis in layout)
        y = lax.reduce_window(y, -jnp.inf, lax.max, window, window, "VALID")
    return y


def per_channel(v: Float[Array, "C"], layout: str) -> Float[Array, "..."]:
    """[C], shaped to broadcast over images of this layout."""
    return v.reshape([-1 if axis == "C" else 1 for axis in layout])


def _mean(x: Array, layout: str, axis_name: str | None) -> Float[Array, "C"]:
    mean = jnp.mean(x, [axis for axis, name in enumerate(layout) if name != "C"])
    return mean if axis_name is None else lax.pmean(mean, axis_name)
