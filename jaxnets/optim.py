"""Optimisers exactly as PyTorch defines them, on optax; and its StepLR.

Each is an `optax.GradientTransformation` whose `learning_rate` is a number or a function of the step. Equal arguments
give the same object: so states of equal recipes share their compiled steps and can be stacked for `jax.vmap`. Of
optax's own optimisers, each call gives another: make one and use it in all states.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxnets.domains import Number, check, check_count

Schedule: TypeAlias = Callable[[int | Int[Array, ""]], Float[Array, ""]]

P = ParamSpec("P")
R = TypeVar("R")


def _same_of_same(make: Callable[P, R]) -> Callable[P, R]:
    """Keeps each result by its arguments. Arguments without a hash, such as arrays, give a new result each time."""
    kept: Callable[P, R] = functools.cache(make)  # type: ignore[assignment]  # its stub takes hashable arguments alone

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hash((args, *kwargs.items()))
        except TypeError:
            return make(*args, **kwargs)
        return kept(*args, **kwargs)

    return made


@_same_of_same
def sgd(learning_rate: Number | Schedule, momentum: Number = 0.0) -> optax.GradientTransformation:
    """`torch.optim.SGD`: buffer ← momentum·buffer + gradient; parameter ← parameter − learning_rate·buffer.

    Raises:
      ValueError: for a learning rate that is negative or not finite, or a momentum outside of [0, 1).
    """
    _check_rate(learning_rate)
    check("momentum", momentum, "[0, 1)")
    return optax.sgd(learning_rate, momentum=None if _is_zero(momentum) else momentum)


class AdamState(NamedTuple):
    """First and second moments, shaped as the parameters, and the number of steps taken."""

    taken: Int[Array, ""]
    first: Any
    second: Any


@_same_of_same
def adam(
    learning_rate: Number | Schedule = 1e-3, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8
) -> optax.GradientTransformation:
    """`torch.optim.Adam`: parameter ← parameter − learning_rate·(first / c1) / (√second / √c2 + eps).

    c1 = 1 − b1^t and c2 = 1 − b2^t correct the moments for their start at zero. `optax.scale_by_adam` means the same
    but rounds elsewhere, and does not pass strict dtype promotion.

    Raises:
      ValueError: for a learning rate that is negative or not finite, b1 or b2 outside of [0, 1), or a negative eps.
    """
    _check_rate(learning_rate)
    check("b1", b1, "[0, 1)")
    check("b2", b2, "[0, 1)")
    check("eps", eps, "[0, ∞)")

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


@_same_of_same
def step_lr(learning_rate: Number, *, steps_per_epoch: int, step_size: int, gamma: Number) -> Schedule:
    """`torch.optim.lr_scheduler.StepLR`, stepped once an epoch: learning_rate·gamma^⌊epoch / step_size⌋.

    Raises:
      ValueError: for a learning rate that is negative or not finite, a gamma that is not above 0, or counts below 1.
    """
    _check_rate(learning_rate)
    check_count("steps_per_epoch", steps_per_epoch)
    check_count("step_size", step_size)
    check("gamma", gamma, "(0, ∞)")
    return counted_in_floats(optax.exponential_decay(learning_rate, steps_per_epoch * step_size, gamma, staircase=True))


def counted_in_floats(schedule: Schedule) -> Schedule:
    """A schedule of optax with the step as a floating-point number, which is exact up to 2²⁴ steps in float32.

    Of an integer step optax's schedules are float32, under float64 too, and some fail under strict dtype promotion.
    """
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


@_same_of_same
def by_group(net: optax.GradientTransformation, head: optax.GradientTransformation) -> optax.GradientTransformation:
    """One optimiser for parameters {"net": …, "head": …}, each group with its own."""
    return optax.partition({"net": net, "head": head}, {"net": "net", "head": "head"})


def _is_zero(number: Number) -> bool:
    return not isinstance(number, jax.Array) and number == 0


def _check_rate(learning_rate: Number | Schedule) -> None:
    if not callable(learning_rate):
        check("learning_rate", learning_rate, "[0, ∞)")
