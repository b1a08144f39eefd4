"""The twelve recipes against the study's table, and what is built of them."""

import jax
import jax.numpy as jnp
import pytest

from experiments.arcloss.study import build_optimizer
from experiments.arcloss.variants import VARIANTS, Adam, Sgd
from jaxnets.models.conv_stack import BACKBONES

SLOW, FAST, HEAD = Sgd(1e-3, 0.9, 20, 0.8), Sgd(1e-2, 0.9, 20, 0.8), Sgd(0.5)
TABLE = {
    "v0": (Adam(), Adam(), 256),
    "v1": (Adam(), Adam(), 256),
    "v1_1": (SLOW, HEAD, 256),
    "v1_1_2": (SLOW, HEAD, 256),
    "v1_1_3": (SLOW, HEAD, 256),
    "v1_1_4": (FAST, HEAD, 256),
    "v1_2": (SLOW, HEAD, 256),
    "v1_2_2": (SLOW, HEAD, 256),
    "v1_2_3": (FAST, HEAD, 256),
    "v1_2_4": (FAST, HEAD, 512),
    "v2": (Adam(), Adam(), 256),
    "v2_1": (FAST, HEAD, 256),
}


def test_the_twelve_are_the_studys():
    assert {name: (v.net, v.head, v.batch_size) for name, v in VARIANTS.items()} == TABLE
    assert tuple(VARIANTS) == tuple(BACKBONES)
    assert all(variant.name == name and variant.verdict for name, variant in VARIANTS.items())


@pytest.mark.parametrize(("recipe", "rate_after"), [(FAST, 8e-3), (HEAD, 0.5), (Adam(), 1e-3)], ids=str)
def test_step_lr_acts_once_an_epoch_and_on_the_net_alone(recipe, rate_after):
    """With a constant gradient of 1 and no momentum left in it, an update is −rate (Adam's too)."""
    optimizer, learning_rate = build_optimizer(recipe, steps_per_epoch=3)
    assert learning_rate(0) == pytest.approx(recipe.learning_rate) and learning_rate(20) == pytest.approx(rate_after)
    parameters = jnp.zeros(1)
    state = optimizer.init(parameters)
    update = jax.jit(optimizer.update)
    updates = []
    for _ in range(3 * 21 + 100):
        moved, state = update(jnp.ones(1), state, parameters)
        updates.append(float(moved[0]))
    momentum = getattr(recipe, "momentum", 0.0)
    assert updates[62] == pytest.approx(-rate_after / (1 - momentum), rel=2e-3)
    assert updates[59] == pytest.approx(-recipe.learning_rate / (1 - momentum), rel=3e-3)
