"""What every implementation of the operation must give, in float64 NumPy and by hand."""

import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.margins import ArcFace, Combined, CosFace, NormFace, SphereFace, Tutorial
from kernels.margin_softmax import Implementation, margin_softmax

MARGINS = [
    NormFace(),
    CosFace(0.35),
    ArcFace(0.5),
    ArcFace(0.5, beyond="smooth"),
    SphereFace(1.7),
    SphereFace(4.0),
    Combined(1.1, 0.3, 0.2),
    Tutorial(0.5),
]
SHAPES = [(1, 2, 2), (5, 64, 3), (7, 33, 129)]
CASES = [(margin, (8, 2, 10)) for margin in MARGINS] + [(ArcFace(0.5), shape) for shape in SHAPES]

pytestmark = pytest.mark.parametrize("implementation", get_args(Implementation))


def psi64(margin, theta):
    """Each margin's ψ(θ) from its paper's formula, in float64."""
    match margin:
        case NormFace():
            return np.cos(theta)
        case CosFace(m):
            return np.cos(theta) - m
        case ArcFace(m, "classic"):
            return np.where(theta < np.pi - m, np.cos(theta + m), np.cos(theta) - m * np.sin(m))
        case ArcFace(m, "smooth"):
            return np.where(theta < np.pi - m, np.cos(theta + m), -2 - np.cos(theta + m))
        case SphereFace(m):
            k = np.floor(m * theta / np.pi)
            return (-1) ** k * np.cos(m * theta) - 2 * k
        case Combined(m1, m2, m3):
            k = np.floor((m1 * theta + m2) / np.pi)
            return (-1) ** k * np.cos(m1 * theta + m2) - 2 * k - m3
        case Tutorial(m):
            return 10 * np.cos(np.arccos(np.cos(theta) / 10) + m)


def loss64(x, w, labels, margin, scale):
    x, w = (np.asarray(v, np.float64) for v in (x, w))
    x, w = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, w))
    target = w[labels]
    theta = 2 * np.arctan2(np.linalg.norm(x - target, axis=1), np.linalg.norm(x + target, axis=1))
    logits = scale * (x @ w.T)
    logits[np.arange(len(labels)), labels] = scale * psi64(margin, theta)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return log_sum - logits[np.arange(len(labels)), labels]


def problem(shape, seed=0):
    n, d, c = shape
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(n, d)) * 5, rng.normal(size=(c, d)) / 3
    return x.astype(np.float32), w.astype(np.float32), rng.integers(0, c, n).astype(np.int32)


def jitted(**static):
    return jax.jit(partial(margin_softmax, **static))


def tolerance(scale, d):
    """Cosines in float32 are off by a few ulp a term, and a loss by `scale` times that."""
    return 4 * scale * np.finfo(np.float32).eps * math.sqrt(d) + 1e-6


@pytest.mark.parametrize(("margin", "shape"), CASES, ids=str)
def test_values(implementation, margin, shape):
    x, w, labels = problem(shape)
    got = jitted(margin=margin, scale=10.0, implementation=implementation)(x, w, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, loss64(x, w, labels, margin, 10.0), rtol=1e-5, atol=tolerance(10.0, shape[1]))


@pytest.mark.parametrize(("margin", "shape"), CASES, ids=str)
def test_gradients_are_the_finite_differences_of_float64(implementation, margin, shape):
    x, w, labels = problem(shape, seed=1)
    loss = jitted(margin=margin, scale=4.0, implementation=implementation)

    gradients = jax.jit(jax.grad(lambda x, w: loss(x, w, labels).sum(), (0, 1)))(x, w)
    rng = np.random.default_rng(2)
    for argument, gradient in enumerate(gradients):
        for _ in range(4):
            step = rng.normal(size=gradient.shape)
            step *= 1e-6 / np.linalg.norm(step)
            ahead, behind = [x.astype(np.float64), w.astype(np.float64)], [x.astype(np.float64), w.astype(np.float64)]
            ahead[argument], behind[argument] = ahead[argument] + step, behind[argument] - step
            slope = (loss64(*ahead, labels, margin, 4.0) - loss64(*behind, labels, margin, 4.0)).sum() / 2
            scale = np.linalg.norm(gradient) * 1e-6
            np.testing.assert_allclose(float((gradient * step).sum()), slope, rtol=2e-4, atol=2e-4 * scale)


def test_gradients_are_the_autodiff_of_the_textbook_in_float64(implementation):
    """acos, add the margin, cos, log-softmax: safe in float64 away from the ends."""
    x, w, labels = problem((9, 5, 6), seed=3)

    def textbook(x, w):
        x, w = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (x, w))
        theta = jnp.arccos(x @ w.T)
        is_target = labels[:, None] == np.arange(6)[None, :]
        logits = 7.0 * jnp.cos(theta + 0.1 * is_target.astype(theta.dtype))
        return -(jax.nn.log_softmax(logits, axis=1) * is_target.astype(theta.dtype)).sum()

    with jax.enable_x64(True):
        want = jax.jit(jax.grad(textbook, (0, 1)))(jnp.asarray(x, jnp.float64), jnp.asarray(w, jnp.float64))
        want = [np.asarray(gradient) for gradient in want]
    loss = jitted(margin=ArcFace(0.1), scale=7.0, implementation=implementation)
    got = jax.jit(jax.grad(lambda x, w: loss(x, w, labels).sum(), (0, 1)))(x, w)
    for gradient, exact in zip(got, want, strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


def test_by_hand(implementation):
    """Two orthogonal classes and an embedding on the first: cos = (1, 0), so the loss is log(1 + e^(0 − s·ψ))."""
    x, w, labels = jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 5.0]]), jnp.array([0])
    for margin, psi in [
        (NormFace(), 1.0),
        (CosFace(0.35), 0.65),
        (ArcFace(0.5), math.cos(0.5)),
        (SphereFace(1.7), 1.0),
        (Combined(1.0, 0.3, 0.2), math.cos(0.3) - 0.2),
        (Tutorial(0.5), 10 * math.cos(math.acos(0.1) + 0.5)),
    ]:
        loss = margin_softmax(x, w, labels, margin=margin, scale=2.0, implementation=implementation)
        np.testing.assert_allclose(loss, [math.log1p(math.exp(-2 * psi))], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("margin", MARGINS, ids=repr)
def test_finite_where_the_sine_vanishes(implementation, margin, dtype):
    """Parallel, antiparallel, and parallel but for the rounding of its length."""
    w = jnp.array([[0.6, 0.8], [-0.8, 0.6], [1.0, 0.0]], dtype)
    x = jnp.stack([w[0], -w[0], w[0] * jnp.array(0.7, dtype)])

    def total(x, w):
        labels = jnp.array([0, 0, 0])
        return margin_softmax(x, w, labels, margin=margin, scale=64.0, implementation=implementation).sum()

    loss, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w)
    assert jnp.isfinite(loss)
    assert all(jnp.isfinite(gradient).all() and gradient.dtype == dtype for gradient in gradients)


@pytest.mark.parametrize("theta", [1e-6, 3.35e-4, 1e-2, math.pi - 1e-2, math.pi - 3.35e-4])
def test_gradient_is_exact_near_the_ends(implementation, theta):
    """dψ/dθ = −sin(θ + m), also where √(1 − cos²θ) is 0 in float32. Two classes, at right angles."""
    m, scale = 0.5, 3.0
    w = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    x = np.array([[math.cos(theta), math.sin(theta)]], np.float32)
    exact = math.atan2(float(x[0, 1]), float(x[0, 0]))  # of the rounded vector
    margin = ArcFace(m, beyond="smooth")

    def total(x):
        return margin_softmax(x, w, jnp.array([0]), margin=margin, scale=scale, implementation=implementation).sum()

    tangent = np.array([[-math.sin(exact), math.cos(exact)]])
    got = float((jax.grad(total)(x) * tangent).sum())
    past = exact + m > math.pi
    psi, slope = (
        (-2 - math.cos(exact + m), math.sin(exact + m)) if past else (math.cos(exact + m), -math.sin(exact + m))
    )
    q = 1 / (1 + math.exp(scale * (psi - math.sin(exact))))
    assert got == pytest.approx(q * scale * (math.cos(exact) - slope), rel=2e-5)


def test_ignored_and_impossible_labels(implementation):
    x, w, _ = problem((4, 3, 5))
    labels = jnp.array([2, -1, 5, 0])

    def losses(x, w, labels=labels):
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation)

    got = losses(x, w)
    assert got[1] == 0 and jnp.isnan(got[2]) and jnp.isfinite(got[jnp.array([0, 3])]).all()
    dx, dw = jax.grad(lambda x, w: losses(x, w)[jnp.array([0, 1, 3])].sum(), (0, 1))(x, w)
    rest = jnp.array([0, 3])
    np.testing.assert_array_equal(dx[1], 0)
    without = jax.grad(lambda w: losses(x[rest], w, labels[rest]).sum())(w)
    np.testing.assert_allclose(dw, without, rtol=1e-6, atol=1e-7)


def test_vectors_without_direction(implementation):
    x, w, labels = problem((3, 4, 5))
    x[1], w[4] = 0, 0

    def total(x, w):
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation).sum()

    loss, (dx, dw) = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w)
    assert jnp.isfinite(loss) and jnp.isfinite(dx).all() and jnp.isfinite(dw).all()
    np.testing.assert_array_equal(dx[1], 0)
    np.testing.assert_array_equal(dw[4], 0)


def test_nan_is_not_hidden(implementation):
    """A network that has diverged must be seen to have."""
    x, w, labels = problem((3, 4, 5))
    x[1] = np.nan
    loss = margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation)
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False])


def test_length_does_not_matter(implementation):
    x, w, labels = problem((6, 8, 5))
    args = {"margin": ArcFace(0.3), "scale": 8.0, "implementation": implementation}
    plain = margin_softmax(x, w, labels, **args)
    np.testing.assert_allclose(margin_softmax(x * 1e6, w * 1e-6, labels, **args), plain, rtol=1e-5, atol=1e-6)


def test_equal_logits_at_a_large_scale(implementation):
    """All classes alike: the loss without a margin is ln C, whatever the scale."""
    x = jnp.ones((2, 3))
    w = jnp.ones((1000, 3))
    loss = margin_softmax(x, w, jnp.array([0, 999]), margin=NormFace(), scale=64.0, implementation=implementation)
    np.testing.assert_allclose(loss, math.log(1000), rtol=1e-5)


def test_vmap_and_jit(implementation):
    x, w, labels = problem((12, 8, 5))
    args = {"margin": ArcFace(0.3), "scale": 8.0, "implementation": implementation}
    plain = margin_softmax(x, w, labels, **args)
    mapped = jax.jit(jax.vmap(lambda x, labels: margin_softmax(x, w, labels, **args)))(
        x.reshape(3, 4, 8), labels.reshape(3, 4)
    )
    np.testing.assert_allclose(mapped.reshape(12), plain, rtol=1e-6, atol=1e-6)


def test_bfloat16_inputs_are_widened_first(implementation):
    x, w, labels = problem((16, 32, 7))
    x, w = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    got = margin_softmax(x, w, labels, margin=ArcFace(0.5), scale=16.0, implementation=implementation)
    assert got.dtype == jnp.float32
    want = loss64(np.asarray(x, np.float64), np.asarray(w, np.float64), labels, ArcFace(0.5), 16.0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=tolerance(16.0, 32))


def test_misfits_are_refused(implementation):
    x, w, labels = problem((4, 3, 5))
    args = {"margin": NormFace(), "scale": 1.0, "implementation": implementation}
    with pytest.raises(ValueError, match=r"share their last dimension D: embeddings \(4, 2\), class_weights \(5, 3\)"):
        margin_softmax(x[:, :2], w, labels, **args)
    with pytest.raises(ValueError, match="share their first dimension N"):
        margin_softmax(x, w, labels[:3], **args)
    with pytest.raises(ValueError, match=r"takes embeddings \[N, D\]"):
        margin_softmax(x[0], w, labels, **args)
    with pytest.raises(ValueError, match="labels must be integers, not float32"):
        margin_softmax(x, w, labels.astype(np.float32), **args)
    with pytest.raises(ValueError, match="no implementation 'fast'"):
        margin_softmax(x, w, labels, margin=NormFace(), scale=1.0, implementation="fast")
