"""Optimisers exactly as PyTorch defines them, on optax; and its StepLR.

Each is an `optax.GradientTransformation` whose `learning_rate` is a number or a function of the step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Schedule: TypeAlias = Callable[[int | Int[Array, ""]], Float[Array, ""]]


def sgd(learning_rate: float | Schedule, momentum: float = 0.0) -> optax.GradientTransformation:
    """`torch.optim.SGD`: buffer ← momentum·buffer + gradient; parameter ← parameter − learning_rate·buffer."""
    return optax.chain(
        optax.trace(momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


class AdamState(NamedTuple):
    """First and second moments, shaped as the parameters, and the number of steps taken."""

    taken: Int[Array, ""]
    first: Any
    second: Any


def adam(
    learning_rate: float | Schedule = 1e-3, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """`torch.optim.Adam`: parameter ← parameter − learning_rate·(first / c1) / (√second / √c2 + eps).

    c1 = 1 − b1^t and c2 = 1 − b2^t correct the moments for their start at zero. `optax.scale_by_adam` means the same
    but rounds elsewhere, and does not pass strict dtype promotion.
    """

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        first = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.first, grads)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.second, grads)
        t = (state.taken + 1).astype(jnp.result_type(float))
        c1, sqrt_c2 = 1 - b1**t, jnp.sqrt(1 - b2**t)

        def direction(m: Array, v: Array) -> Array:
            return m / c1.astype(m.dtype) / (jnp.sqrt(v) / sqrt_c2.astype(m.dtype) + eps)

        return jax.tree.map(direction, first, second), AdamState(state.taken + 1, first, second)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate))


def step_lr(learning_rate: float, *, steps_per_epoch: int, step_size: int, gamma: float) -> Schedule:
    """`torch.optim.lr_scheduler.StepLR`, stepped once an epoch: learning_rate·gamma^⌊epoch / step_size⌋."""

    def schedule(step: int | Int[Array, ""]) -> Float[Array, ""]:
        decays = jnp.asarray(step // (steps_per_epoch * step_size), jnp.result_type(float))
        return learning_rate * jnp.power(gamma, decays)

    return schedule
