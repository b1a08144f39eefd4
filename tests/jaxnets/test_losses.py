import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, Tutorial, adacos_scale, margin_softmax_loss
from jaxnets.losses import cosines


def test_tutorial_is_the_loss_that_its_write_ups_compute():
    """θ = acos(x̂·ŵ / 10) for every class, logits s·cos θ, and s·cos(θ + m) for the target."""
    rng = np.random.default_rng(0)
    x, w, labels = rng.normal(size=(6, 2)), rng.normal(size=(10, 2)), rng.integers(0, 10, 6)
    theta = np.arccos((x / np.linalg.norm(x, axis=1)[:, None]) @ (w / np.linalg.norm(w, axis=1)[:, None]).T / 10)
    theta[np.arange(6), labels] += 0.5
    logits = 10 * np.cos(theta)
    want = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]
    got = margin_softmax_loss(
        x.astype(np.float32), w.astype(np.float32), labels.astype(np.int32), margin=Tutorial(0.5), scale=10.0
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_function_serves_as_margin():
    x, w = jnp.eye(2), jnp.eye(2)
    labels = jnp.array([0, 1])
    got = margin_softmax_loss(x, w, labels, margin=lambda cos_theta, sin_theta: cos_theta - 0.25, scale=2.0)
    np.testing.assert_allclose(got, math.log1p(math.exp(-1.5)), rtol=1e-6)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        x, w = jnp.ones((2, 3), jnp.float64), jnp.eye(3, dtype=jnp.float64)
        loss = margin_softmax_loss(x, w, jnp.array([0, 1]), margin=ArcFace(0.1), scale=3.0)
        c = 1 / math.sqrt(3)
        psi = c * math.cos(0.1) - math.sqrt(1 - c * c) * math.sin(0.1)
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, math.log1p(2 * math.exp(3 * c - 3 * psi)), rtol=1e-13)


def test_adacos_scale():
    assert adacos_scale(10) == pytest.approx(3.107, abs=1e-3)
    with pytest.raises(ValueError, match="three classes or more, not 2"):
        adacos_scale(2)


def test_cosines():
    got = cosines(jnp.array([[2.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 7.0], [1.0, 0.0]]))
    np.testing.assert_allclose(got, [[0, 1], [0.8, 0.6]], atol=1e-6)
