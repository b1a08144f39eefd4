"""The operation with a gradient of its own, for XLA:CPU.

JAX's gradient of pooling is a scatter, and XLA:CPU is slow at that, and at sums over anything but arrays in memory.
Here the gradient of the pool is a comparison of positions, sums read arrays that an optimisation barrier has put into
memory, and nothing but x and the statistics is kept from the forward pass.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from kernels.max_pool.windows import Windows, pixels, unpool
from kernels.norm_act_pool.reference import per_channel


@dataclasses.dataclass(frozen=True)
class _Static:
    pool: bool
    layout: str
    axis_name: str | None
    epsilon: float

    def sum(self, x: Float[Array, "..."]) -> Float[Array, "C"]:
        return jnp.sum(x, [axis for axis, name in enumerate(self.layout) if name != "C"])

    def over_devices(self, sums: Array) -> Array:
        return sums if self.axis_name is None else lax.psum(sums, self.axis_name)

    def count(self, x: Array) -> int:
        """How many values each channel's statistics are taken of."""
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        return devices * math.prod(x.shape) // x.shape[self.layout.index("C")]


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
    """As `reference`."""
    return _norm_act_pool(_Static(pool, layout, axis_name, epsilon), x, scale, bias, slope)


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
    """As `reference.apply`."""
    expand = functools.partial(per_channel, layout=layout)
    gain = scale * lax.rsqrt(var + epsilon)
    shift = bias - mean * gain

    def activate(x: Array) -> Array:
        return _prelu(x * expand(gain) + expand(shift), slope)

    if not pool:
        return activate(x)
    a, b, c, d = (activate(corner) for corner in pixels(x, _windows(layout)))
    return _first_max(_first_max(a, b), _first_max(c, d))


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
    y = apply(x, scale, bias, slope, mean, var, pool=static.pool, layout=static.layout, epsilon=static.epsilon)
    return (y, mean, var), (x, scale, bias, slope, mean, var)


def _backward(
    static: _Static, residuals: tuple[Array, Array, Array, Array | None, Array, Array], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, Array, Array | None]:
    """With x̂ = (x − mean)/σ, z = scale·x̂ + bias and dz from dy through pool and PReLU, over the M values of a channel:

    dbias = Σ dz,  dscale = Σ dz·x̂,  dslope = Σ dy·min(z, 0),  dx = scale/σ · (dz − dbias/M − x̂·dscale/M).

    The sums are made with x, and x̂'s from theirs: x − mean would first have to be written to memory. What that costs
    in digits, |mean|/σ, x has itself lost already when it was rounded.
    """
    x, scale, bias, slope, mean, var = residuals
    dy, _, _ = cotangents
    expand = functools.partial(per_channel, layout=static.layout)
    inverse_std = lax.rsqrt(var + static.epsilon)
    gain = scale * inverse_std
    shift = bias - mean * gain

    # The gradient of the pool reaches a quarter of x, so sums are made over that quarter.
    winner, reached = None, x
    if static.pool:
        winner, reached = lax.optimization_barrier(_pool_winners(x, gain, shift, slope, static.layout))
    if slope is None:
        dz, dslope = dy, None
        sum_dz, sum_dz_x = static.sum(dy), static.sum(dy * reached)
    else:
        # Σ dz = slope·Σ dy + (1 − slope)·Σ kept, so this one product with a mask is all that has to be in memory.
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
    # Or XLA computes dx anew inside each of its readers.
    return lax.optimization_barrier(dx), dscale, dbias, dslope


_norm_act_pool.defvjp(_forward, _backward)


def _prelu(z: Array, slope: Array | None) -> Array:
    return z if slope is None else jnp.where(z > 0, z, slope * z)


def _first_max(a: Array, b: Array) -> Array:
    return jnp.where(_is_first(a, b), a, b)


def _is_first(a: Array, b: Array) -> Array:
    """Whether a is the maximum, of equals the first; NaN is above all, or it would be lost."""
    return (a >= b) | jnp.isnan(a)


def _windows(layout: str) -> Windows:
    return Windows(size=2, stride=2, padding=0, layout=layout)


def _pool_winners(
    x: Array, gain: Array, shift: Array, slope: Array | None, layout: str
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """For each window the place (0 … 3) of its first maximum after the activation, and x there."""
    expand = functools.partial(per_channel, layout=layout)
    candidates = [
        (_prelu(corner * expand(gain) + expand(shift), slope), place, corner)
        for place, corner in enumerate(pixels(x, _windows(layout)))
    ]

    def better(a: tuple, b: tuple) -> tuple:
        first = _is_first(a[0], b[0])
        return tuple(jnp.where(first, of_a, of_b) for of_a, of_b in zip(a, b, strict=True))

    _, winner, reached = better(better(*candidates[:2]), better(*candidates[2:]))
    return winner.astype(jnp.int8), reached
