import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import adam, sgd, step_lr
from jaxnets.domains import check
from jaxnets.optim import by_group, counted_in_floats

TORCH = np.load(Path(__file__).parents[1] / "fixtures" / "torch_layers.npz")


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("adam", adam()),
        ("sgd", sgd(0.5)),
        ("sgd_momentum_step_lr", sgd(step_lr(0.01, steps_per_epoch=10, step_size=2, gamma=0.8), 0.9)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_thirty_steps_equal_pytorchs(name, optimizer):
    """Gradients from 1e-6 to 1e2; a step's rounding is an ulp of the parameter, thirty of them at most thirty."""
    parameters = jnp.asarray(TORCH["optimizer/start"])
    state = optimizer.init(parameters)
    for gradient, want in zip(TORCH["optimizer/gradients"], TORCH[f"optimizer/{name}"], strict=True):
        updates, state = optimizer.update(jnp.asarray(gradient), state, parameters)
        parameters = parameters + updates
        ulp = np.finfo(np.float32).eps * np.maximum(np.abs(TORCH[f"optimizer/{name}"]).max(axis=0), 1)
        np.testing.assert_array_less(np.abs(parameters - want), 30 * ulp)


@pytest.mark.parametrize(("x64", "error"), [(False, 1e-6), (True, 1e-15)])
def test_step_lr_closed_form(x64, error):
    schedule = step_lr(1e-2, steps_per_epoch=235, step_size=20, gamma=0.8)
    with jax.enable_x64(x64):
        for epoch in (0, 19, 20, 39, 40, 99):
            for step in (epoch * 235, epoch * 235 + 234):
                assert float(schedule(jnp.int32(step))) == pytest.approx(1e-2 * 0.8 ** (epoch // 20), rel=error)


@pytest.mark.parametrize(("x64", "error"), [(False, 2e-6), (True, 1e-14)])
def test_schedules_of_optax_hold_their_equation_under_strict_promotion(x64, error):
    """Ten steps of warm-up, and a cosine from there to step 100."""
    schedule = counted_in_floats(optax.warmup_cosine_decay_schedule(0.1, 1.0, 10, 100))
    with jax.enable_x64(x64):
        for step in (0, 3, 10, 55, 99, 100):
            falling = 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
            wanted = 0.1 + 0.9 * step / 10 if step < 10 else falling
            assert float(schedule(jnp.int32(step))) == pytest.approx(wanted, rel=error, abs=error / 10)


def test_what_is_no_number_is_refused():
    for value in ("0.1", None, [0.1, "x"]):
        with pytest.raises(ValueError, match="scale must be a number, not "):
            check("scale", value, "(0, ∞)")
    with pytest.raises(ValueError, match=r"scale must be in \(0, ∞\), not -2.0"):
        check("scale", jnp.array([1.0, -2.0]), "(0, ∞)")
    jax.jit(lambda scale: check("scale", scale, "(0, ∞)"))(-1.0)  # not known yet


def test_equal_recipes_are_equal():
    def recipe(rate):
        schedule = step_lr(rate, steps_per_epoch=10, step_size=2, gamma=0.8)
        return by_group(sgd(schedule, 0.9), adam(rate))

    assert recipe(0.1) == recipe(0.1) and hash(recipe(0.1)) == hash(recipe(0.1))
    assert recipe(0.1) != recipe(0.2)
    assert sgd(jnp.float32(0.1)).init(jnp.ones(1)) is not None  # an array has no hash


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgd(-0.1), r"learning_rate must be in \[0, ∞\), not -0.1"),
        (lambda: sgd(math.nan), r"learning_rate must be in \[0, ∞\), not nan"),
        (lambda: sgd(0.1, 1.0), r"momentum must be in \[0, 1\), not 1.0"),
        (lambda: adam(b2=1.5), r"b2 must be in \[0, 1\), not 1.5"),
        (lambda: adam(eps=-1e-8), r"eps must be in \[0, ∞\), not -1e-08"),
        (lambda: step_lr(0.1, steps_per_epoch=0, step_size=1, gamma=0.8), "steps_per_epoch must be an integer of 1"),
        (
            lambda: step_lr(0.1, steps_per_epoch=9, step_size=1.5, gamma=0.8),
            "step_size must be an integer of 1 or more",
        ),
        (lambda: step_lr(0.1, steps_per_epoch=9, step_size=1, gamma=0.0), r"gamma must be in \(0, ∞\), not 0.0"),
    ],
)
def test_numbers_outside_their_domain_are_refused(make, message, unenforced):
    with pytest.raises(ValueError, match=message):
        make()
