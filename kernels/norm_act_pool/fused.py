"""The operation with a gradient of its own, for XLA:CPU.

JAX's gradient of pooling is a scatter. XLA:CPU is slow at scatters, and at sums over arrays that are not in memory.
Here the gradient of the pool is a comparison of places, an optimisation barrier puts arrays into memory before their
sums, and the backward pass needs x and the statistics alone.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from kernels.max_pool import Layout
from kernels.max_pool.windows import Windows, pixels, unpool
from kernels.norm_act_pool.reference import EPSILON, per_channel


@dataclasses.dataclass(frozen=True)
class _Static:
    pool: bool
    layout: Layout
    axis_names: tuple[str, ...]

    def sum(self, x: Float[Array, "..."]) -> Float[Array, "C"]:
        return jnp.sum(x, [axis for axis, name in enumerate(self.layout) if name != "C"])

    def over_devices(self, sums: Float[Array, "C"]) -> Float[Array, "C"]:
        return lax.psum(sums, self.axis_names) if self.axis_names else sums

    def count(self, x: Float[Array, "..."]) -> int:
        """The number of values in each channel's statistics."""
        return lax.axis_size(self.axis_names) * math.prod(x.shape) // x.shape[self.layout.index("C")]


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
    """As `reference`."""
    return _norm_act_pool(_Static(pool, layout, axis_names), x, scale, bias, slope)


def activate(
    x: Float[Array, "..."],
    slope: Float[Array, ""] | None,
    scale: Float[Array, "C"],
    bias: Float[Array, "C"],
    mean: Float[Array, "C"],
    var: Float[Array, "C"],
    *,
    layout: Layout,
) -> Float[Array, "..."]:
    """PReLU(scale · (x − mean) / √(var + ε) + bias) as one product and one sum."""
    gain = scale * lax.rsqrt(var + EPSILON)
    return _prelu(x * per_channel(gain, layout) + per_channel(bias - mean * gain, layout), slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm_act_pool(
    static: _Static, x: Array, scale: Array, bias: Array, slope: Array | None
) -> tuple[Array, Array, Array]:
    return _forward(static, x, scale, bias, slope)[0]


def _forward(
    static: _Static, x: Array, scale: Array, bias: Array, slope: Array | None
) -> tuple[tuple[Array, Array, Array], tuple[Array | None, ...]]:
    count = static.count(x)
    mean = static.over_devices(static.sum(x)) / count
    var = static.over_devices(static.sum(jnp.square(x - per_channel(mean, static.layout)))) / count
    seen = pixels(x, _windows(static.layout)) if static.pool else [x]
    of_places = (activate(at, slope, scale, bias, mean, var, layout=static.layout) for at in seen)
    y = functools.reduce(jnp.maximum, of_places)
    return (y, mean, var), (x, scale, bias, slope, mean, var)


def _backward(
    static: _Static, residuals: tuple[Array, Array, Array, Array | None, Array, Array], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, Array, Array | None]:
    """With x̂ = (x − mean)/σ, z = scale·x̂ + bias and dz from dy through pool and PReLU, over the M values of a channel:

    dbias = Σ dz,  dscale = Σ dz·x̂,  dslope = Σ dy·min(z, 0),  dx = scale/σ · (dz − dbias/M − x̂·dscale/M).

    The sums are taken over x, and the sums over x̂ follow: x − mean would first have to be written to memory. This
    loses a factor |mean|/σ of precision, which x has already lost when it was rounded.
    """
    x, scale, bias, slope, mean, var = residuals
    dy, _, _ = cotangents
    expand = functools.partial(per_channel, layout=static.layout)
    inverse_std = lax.rsqrt(var + EPSILON)
    gain = scale * inverse_std
    shift = bias - mean * gain

    # The gradient of the pool reaches a quarter of x, so the sums are over that quarter.
    winner, reached = None, x
    if static.pool:
        winner, reached = lax.optimization_barrier(_pool_winners(x, gain, shift, slope, static.layout))
    if slope is None:
        dz, dslope = dy, None
        sum_dz, sum_dz_x = static.sum(dy), static.sum(dy * reached)
    else:
        # Σ dz = slope·Σ dy + (1 − slope)·Σ kept, so only this one product with a mask has to be in memory.
        is_positive = reached * expand(gain) + expand(shift) > 0
        kept = lax.optimization_barrier(jnp.where(is_positive, dy, jnp.zeros_like(dy)))
        sum_dy, sum_kept = static.sum(dy), static.sum(kept)
        sum_dy_x, sum_kept_x = static.sum(dy * reached), static.sum(kept * reached)
        dz = jnp.where(is_positive, dy, slope * dy)
        sum_dz = slope * sum_dy + (1 - slope) * sum_kept
        sum_dz_x = slope * sum_dy_x + (1 - slope) * sum_kept_x
        dslope = jnp.sum(gain * (sum_dy_x - sum_kept_x) + shift * (sum_dy - sum_kept))
    if winner is not None:
        dz = unpool(lax.optimization_barrier(dz), winner, x.shape, _windows(static.layout))

    dbias, dscale = sum_dz, (sum_dz_x - mean * sum_dz) * inverse_std
    count = static.count(x)
    per_x = gain * inverse_std * static.over_devices(dscale) / count
    constant = gain * static.over_devices(dbias) / count - mean * per_x
    dx = expand(gain) * dz - x * expand(per_x) - expand(constant)
    # Else XLA would compute dx anew inside each of its readers.
    return lax.optimization_barrier(dx), dscale, dbias, dslope


_norm_act_pool.defvjp(_forward, _backward)


def _prelu(z: Float[Array, "..."], slope: Float[Array, ""] | None) -> Float[Array, "..."]:
    return z if slope is None else jnp.where(z > 0, z, slope * z)


def _windows(layout: Layout) -> Windows:
    return Windows(size=2, stride=2, padding=0, layout=layout)


def _pool_winners(
    x: Array, gain: Array, shift: Array, slope: Array | None, layout: Layout
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """For each window, the place (0 … 3) of its first maximum after the activation, and x there."""
    expand = functools.partial(per_channel, layout=layout)
    candidates = [
        (_prelu(corner * expand(gain) + expand(shift), slope), place, corner)
        for place, corner in enumerate(pixels(x, _windows(layout)))
    ]

    def better(a: tuple, b: tuple) -> tuple:
        is_second = b[0] > a[0]  # NaN, in the statistics then, makes the whole gradient NaN
        return tuple(jnp.where(is_second, of_b, of_a) for of_a, of_b in zip(a, b, strict=True))

    _, winner, reached = better(better(*candidates[:2]), better(*candidates[2:]))
    return winner.astype(jnp.int8), reached
