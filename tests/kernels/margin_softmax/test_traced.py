"""Margins and scales that are traced: one program for all their values, with gradients in both; and forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.margins import ArcFace, CosFace
from kernels.margin_softmax import HardNegatives, margin_softmax, reference

N, D, C = 6, 3, 7


def problem(num_centers=0):
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(N, D)), rng.normal(size=(C, num_centers, D) if num_centers else (C, D))
    return x.astype(np.float32), w.astype(np.float32), rng.integers(0, C, N).astype(np.int32)


def hard_negatives(t):
    return HardNegatives(t, threshold=ArcFace(0.5, beyond="rising")) if t else None


@pytest.mark.parametrize(("num_centers", "t"), [(0, 0.0), (3, 0.4)])
def test_scale_and_margin_are_traced_with_gradients(implementation, num_centers, t):
    """m one a row, and s, against the definition in float64; of s = 100 no exponential overflows."""
    x, w, labels = problem(num_centers)
    traces = []

    @jax.jit
    def got(x, w, m, s):
        traces.append(s)

        def total(x, w, m, s):
            options = {"hard_negatives": hard_negatives(t), "implementation": implementation}
            return margin_softmax(x, w, labels, margin=ArcFace(m, beyond="smooth"), scale=s, **options).sum()

        return jax.value_and_grad(total, (0, 1, 2, 3))(x, w, m, s)

    @jax.jit
    def wanted(x, w, m, s):
        def total(x, w, m, s):
            options = {"margin": ArcFace(m, beyond="smooth"), "scale": s, "hard_negatives": hard_negatives(t)}
            return reference.margin_softmax(x, w, jnp.asarray(labels), **options).sum()

        return jax.value_and_grad(total, (0, 1, 2, 3))(x, w, m, s)

    for s in (1.5, 30.0, 100.0):
        m = np.linspace(0.1, 0.6, N)
        loss, gradients = got(x, w, m.astype(np.float32), jnp.float32(s))
        with jax.enable_x64(True):
            exact, wants = jax.device_get(wanted(*(np.asarray(array, np.float64) for array in (x, w, m, s))))
        off = 1e-6 * s + (s * 3 * 2**-15 if implementation == "pallas_gpu" else 0)
        np.testing.assert_allclose(loss, exact, rtol=1e-5, atol=off)
        for gradient, want in zip(gradients, wants, strict=True):
            np.testing.assert_allclose(gradient, want, rtol=0, atol=(1e-5 + off) * np.abs(want).max() + 1e-6)
    assert len(traces) == 1


def test_a_traced_scale_is_one_number(implementation):
    x, w, labels = problem()

    def losses(s):
        return margin_softmax(x, w, labels, margin=CosFace(), scale=s, implementation=implementation)

    for wrong in (np.ones(2, np.float32), 3):
        with pytest.raises(ValueError, match="scale must be one floating-point number for all rows, not"):
            jax.eval_shape(losses, wrong)


def test_forward_mode_is_served_or_refused_in_a_sentence(implementation):
    """Against central differences in float64."""
    x, w, labels = problem()

    def total(x, w=w):
        return margin_softmax(x, w, labels, margin=CosFace(), scale=5.0, implementation=implementation).sum()

    direction = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    of = {
        "linearize": lambda: jax.linearize(jax.jit(total), x)[1](direction),
        "jitted": lambda: jax.jit(lambda x: jax.jvp(total, (x,), (direction,))[1])(x),
        "hessian": lambda: jnp.einsum("ndme,me,nd", jax.jit(jax.hessian(total))(x), direction, direction),
    }
    with jax.enable_x64(True):
        wide, rows = jnp.asarray(w.astype(np.float64)), jnp.asarray(labels)
        exact = jax.jit(lambda x: reference.margin_softmax(x, wide, rows, margin=CosFace(), scale=5.0).sum())
        places = (x.astype(np.float64) + step * direction.astype(np.float64) for step in (1e-4, 0, -1e-4))
        ahead, here, behind = (float(exact(jnp.asarray(place))) for place in places)
    for name, derivative in of.items():
        if implementation != "reference":
            with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
                derivative()
            continue
        want = (ahead - 2 * here + behind) / 1e-8 if name == "hessian" else (ahead - behind) / 2e-4
        np.testing.assert_allclose(derivative(), want, rtol=1e-4)
