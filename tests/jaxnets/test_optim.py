from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import adam, sgd, step_lr

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


def test_step_lr_closed_form():
    schedule = step_lr(1e-2, steps_per_epoch=235, step_size=20, gamma=0.8)
    for epoch in (0, 19, 20, 39, 40, 99):
        for step in (epoch * 235, epoch * 235 + 234):
            assert float(schedule(jnp.int32(step))) == pytest.approx(1e-2 * 0.8 ** (epoch // 20), rel=1e-6)
