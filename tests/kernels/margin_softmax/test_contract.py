"""What every implementation of the operation must give, in float64 NumPy and by hand."""

import dataclasses
import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxnets.margins import AdaFace, ArcFace, Combined, CosFace, NormFace, SphereFace, Tutorial
from kernels.margin_softmax import HardNegatives, Implementation, api, margin_softmax, reference, streamed
from kernels.margin_softmax.pallas_gpu import PallasGpu

MARGINS = [
    NormFace(),
    CosFace(0.35),
    ArcFace(0.5),
    ArcFace(0.5, beyond="smooth"),
    SphereFace(1.7),
    SphereFace(4.0),
    Combined(1.1, 0.3, 0.2),
    Tutorial(0.5),
    ArcFace(0.5, beyond="rising"),
    AdaFace(0.4, 0.333),
]
SHAPES = [(1, 2, 2), (5, 64, 3), (7, 33, 129)]
LENGTHS = {"mean": 6.0, "std": 1.0}  # AdaFace's statistics: of 8 rows in the plane, four lie at the ends of its margin


@dataclasses.dataclass(frozen=True)
class Case:
    """What an implementation is asked for. `t` is that of the hard negatives, beyond cos(θ + 0.5); 0 means none."""

    margin: object
    num_centers: int = 0
    t: float = 0.0
    margin_grad: str = "exact"

    def __str__(self):
        named = [f"K={self.num_centers}"] * bool(self.num_centers) + [f"t={self.t}"] * bool(self.t)
        return " ".join([str(self.margin), *named, *[self.margin_grad] * (self.margin_grad != "exact")])

    def options(self, x):
        """As `margin_softmax` takes them, for embeddings x."""
        margin = self.margin
        if isinstance(margin, AdaFace):
            margin = margin.at({name: jnp.float32(value) for name, value in LENGTHS.items()}, x)
        hard = HardNegatives(self.t, threshold=ArcFace(0.5, beyond="rising")) if self.t else None
        return {"margin": margin, "margin_grad": self.margin_grad, "hard_negatives": hard}


KINDS = [
    *[Case(margin) for margin in MARGINS],
    *[Case(margin, num_centers=3) for margin in (ArcFace(0.5), AdaFace(0.4, 0.333))],
    *[Case(ArcFace(0.5), num_centers, t) for num_centers, t in ((0, 0.4), (3, 0.4), (1, -0.1))],
    *[Case(margin, margin_grad="straight_through") for margin in (ArcFace(0.5, "rising"), Tutorial(0.5))],
    Case(AdaFace(0.4, 0.333), num_centers=2, t=0.4, margin_grad="straight_through"),
]
CASES = [(kind, (8, 2, 10)) for kind in KINDS] + [(Case(ArcFace(0.5)), shape) for shape in SHAPES]
CASES += [(Case(ArcFace(0.5), num_centers, t), (7, 33, 129)) for num_centers, t in ((2, 0.0), (0, 0.4), (3, 0.4))]

# Those for GPUs and TPUs are interpreted here, which takes long. The former needs threads, too, that test_pallas_gpu.py
# gives it, so that only `--interpreted` asks for it; for the latter see test_pallas_tpu.py.
ON_EVERY_PLATFORM = [name for name in get_args(Implementation) if not name.startswith("pallas")]


def pytest_generate_tests(metafunc):
    interpreted = metafunc.config.getoption("--interpreted")
    metafunc.parametrize("implementation", ["pallas_gpu"] if interpreted else ON_EVERY_PLATFORM)


@pytest.fixture(autouse=True)
def _interpret(request, monkeypatch):
    if request.config.getoption("--interpreted"):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        gpu = PallasGpu(interpret=plgpu.InterpretGPUParams(detect_races=True, on_race="raise"))
        monkeypatch.setitem(api._IMPLEMENTATIONS, "pallas_gpu", partial(streamed.margin_softmax, gpu))


def psi64(margin, theta, lengths):
    """Each margin's ψ(θ) from its paper's formula, in float64; AdaFace's with the clips of its authors' code."""
    match margin:
        case NormFace():
            return np.cos(theta)
        case CosFace(m):
            return np.cos(theta) - m
        case ArcFace(m, "classic"):
            return np.where(theta < np.pi - m, np.cos(theta + m), np.cos(theta) - m * np.sin(m))
        case ArcFace(m, "rising"):
            return np.cos(theta + m)
        case AdaFace(m, h):
            quality = h * (np.clip(lengths, 1e-3, 100) - LENGTHS["mean"]) / (LENGTHS["std"] + 1e-3)
            g_angle, g_add = -m * np.clip(quality, -1, 1), m * np.clip(quality, -1, 1) + m
            return np.cos(np.clip(theta + g_angle, 1e-3, np.pi - 1e-3)) - g_add
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


def loss64(x, w, labels, case, scale, base=None):
    """`base` is the (x, w) at which what has no gradient is taken; x and w themselves, unless given."""
    lengths, base_theta = np.linalg.norm(x if base is None else base[0], axis=1), None
    if base is not None:
        base_theta, _ = angles64(*base, labels)
    theta, cosines = angles64(x, w, labels)
    rows = np.arange(len(labels))
    psi = psi64(case.margin, theta, lengths)
    if case.margin_grad == "straight_through" and base is not None:
        psi = psi64(case.margin, base_theta, lengths) + np.cos(theta) - np.cos(base_theta)
    if case.t:
        is_hard = cosines > np.cos(theta + 0.5)[:, None]
        cosines = np.where(is_hard, cosines * (case.t + cosines), cosines)
    logits = scale * cosines
    logits[rows, labels] = scale * psi
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return log_sum - logits[rows, labels]


def angles64(x, w, labels):
    """θ of the targets [N], and all cosines [N, C]; with sub-centres, those to the nearest."""
    x, w = (np.asarray(v, np.float64) for v in (x, w if w.ndim == 3 else w[:, None]))
    x, w = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, w))
    cosines = np.einsum("nd,ckd->nck", x, w)
    target = w[labels, cosines.argmax(axis=2)[np.arange(len(labels)), labels]]
    theta = 2 * np.arctan2(np.linalg.norm(x - target, axis=1), np.linalg.norm(x + target, axis=1))
    return theta, cosines.max(axis=2)


def problem(shape, seed=0, num_centers=0):
    n, d, c = shape
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(n, d)) * 5, rng.normal(size=(c, num_centers, d) if num_centers else (c, d)) / 3
    return x.astype(np.float32), w.astype(np.float32), rng.integers(0, c, n).astype(np.int32)


def jitted(**static):
    return jax.jit(partial(margin_softmax, **static))


def tolerance(scale, d):
    """Cosines in float32 are off by a few ulp a term, and a loss by `scale` times that."""
    return 4 * scale * np.finfo(np.float32).eps * math.sqrt(d) + 1e-6


def left_out(implementation, scale, case):
    """What a loss is off by, and relatively a gradient, as float32 cosines are multiplied in parts.

    A cosine is off by 2⁻¹⁵ at most, see pallas_gpu; a hard negative's logit by |t| + 2 times that, its derivative.
    """
    slope = abs(case.t) + 2 if case.t else 1
    return scale * slope * 2**-15 if implementation == "pallas_gpu" else 0.0


def gradients64(x, w, labels, case, scale):
    """The sum of the losses as defined, and its gradients, in float64."""

    def total(x, w):
        return reference.margin_softmax(x, w, labels, margin=case.margin, scale=scale).sum()

    with jax.enable_x64(True):
        return jax.device_get(jax.jit(jax.value_and_grad(total, (0, 1)))(*(np.asarray(v, np.float64) for v in (x, w))))


@pytest.mark.parametrize(("case", "shape"), CASES, ids=str)
def test_values_and_gradients(implementation, case, shape):
    """Against float64: the values themselves, and finite differences of them along random directions."""
    x, w, labels = problem(shape, num_centers=case.num_centers)

    def total(x, w):
        losses = margin_softmax(x, w, labels, scale=10.0, implementation=implementation, **case.options(x))
        return losses.sum(), losses

    (_, losses), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, w)
    assert losses.dtype == jnp.float32
    parts = left_out(implementation, 10.0, case)
    atol = tolerance(10.0, shape[1]) + parts
    np.testing.assert_allclose(losses, loss64(x, w, labels, case, 10.0), rtol=1e-5, atol=atol)

    base, rng = (x.astype(np.float64), w.astype(np.float64)), np.random.default_rng(2)
    for argument, gradient in enumerate(gradients):
        for _ in range(4):
            step = rng.normal(size=gradient.shape)
            step *= 1e-6 / np.linalg.norm(step)
            ahead, behind = list(base), list(base)
            ahead[argument], behind[argument] = ahead[argument] + step, behind[argument] - step
            slope = (loss64(*ahead, labels, case, 10.0, base) - loss64(*behind, labels, case, 10.0, base)).sum() / 2
            atol = (2e-4 + parts) * np.linalg.norm(gradient) * 1e-6
            np.testing.assert_allclose(float((gradient * step).sum()), slope, rtol=2e-4, atol=atol)


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


def test_hard_negatives_by_hand(implementation):
    """An embedding on the other of two orthogonal classes: c = 1 > cos(90° + 0.5) counts as 1·(0.3 + 1)."""
    x, w = jnp.array([[0.0, 3.0]]), jnp.array([[2.0, 0.0], [0.0, 5.0]])
    case = Case(ArcFace(0.5), t=0.3)
    loss = margin_softmax(x, w, jnp.array([0]), scale=2.0, implementation=implementation, **case.options(x))
    np.testing.assert_allclose(loss, [math.log1p(math.exp(2 * 1.3 + 2 * math.sin(0.5)))], rtol=1e-6)


def test_subcenters_by_hand(implementation):
    """The nearest counts, of the target's as of the other class's: cosines 0.8 and 0.6, of −1 and −0.6 nothing is seen.

    Between two equally near, the first has all of the gradient.
    """
    x = jnp.array([[1.0, 0.0]])
    w = jnp.array([[[-1.0, 0.0], [8.0, 6.0], [8.0, 6.0]], [[0.6, 0.8], [-0.6, 0.8], [0.6, 0.8]]])

    def loss(w):
        args = {"margin": CosFace(0.2), "scale": 3.0, "implementation": implementation}
        return margin_softmax(x, w, jnp.array([0]), **args)[0]

    value, gradient = jax.value_and_grad(loss)(w)
    parts = left_out(implementation, 3.0, Case(CosFace(0.2)))
    assert float(value) == pytest.approx(math.log1p(math.exp(3 * 0.6 - 3 * (0.8 - 0.2))), rel=1e-6, abs=parts)
    np.testing.assert_array_equal(np.abs(gradient).max(axis=2) > 0, [[False, True, False], [True, False, False]])


def test_one_subcenter_is_none(implementation):
    x, w, labels = problem((6, 8, 5))
    args = {"margin": ArcFace(0.3), "scale": 8.0, "implementation": implementation}
    got = margin_softmax(x, w[:, None], labels, **args)
    np.testing.assert_allclose(got, margin_softmax(x, w, labels, **args), rtol=1e-6)


@pytest.mark.parametrize("margin", [ArcFace(0.5), SphereFace(1.7)], ids=repr)
def test_straight_through_keeps_the_loss(implementation, margin):
    x, w, labels = problem((40, 8, 5))
    plain, straight = (
        jitted(margin=margin, scale=8.0, margin_grad=margin_grad, implementation=implementation)(x, w, labels)
        for margin_grad in ("exact", "straight_through")
    )
    np.testing.assert_allclose(straight, plain, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_finite_where_the_sine_vanishes(implementation, case, dtype):
    """Parallel, antiparallel, and parallel but for the rounding of its length."""
    w = jnp.array([[0.6, 0.8], [-0.8, 0.6], [1.0, 0.0]], dtype)
    x = jnp.stack([w[0], -w[0], w[0] * jnp.array(0.7, dtype)])
    if case.num_centers:
        w = jnp.stack([w, -w, w[::-1]], axis=1)[:, : case.num_centers]

    def total(x, w):
        labels = jnp.array([0, 0, 0])
        return margin_softmax(x, w, labels, scale=64.0, implementation=implementation, **case.options(x)).sum()

    loss, gradients = jax.value_and_grad(total, (0, 1))(x, w)
    assert jnp.isfinite(loss)
    assert all(jnp.isfinite(gradient).all() and gradient.dtype == dtype for gradient in gradients)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_gradient_at_the_ends_is_the_mean_of_both_sides(implementation, case, dtype):
    """At θ = 0 and π the angle has a corner; a step along the circle, either way, is what float64 differences see."""
    x = np.array([[2.0, 0.0], [-4.0, 0.0]])
    w = np.array([[0.5, 0.0], [0.0, 1.0], [3.0, 4.0]])
    if case.num_centers:
        w = np.stack([w, w @ np.array([[0.6, 0.8], [0.8, -0.6]]), -w + [1.0, 3.0]], axis=1)[:, : case.num_centers]
    labels = np.array([0, 0])

    def total(x, w):
        return margin_softmax(x, w, labels, scale=4.0, implementation=implementation, **case.options(x)).sum()

    arrays = [jnp.asarray(array, dtype) for array in (x, w)]
    gradients = jax.grad(total, (0, 1))(*arrays)  # not jitted: of its many cases none is compiled anew
    base = [np.asarray(array, np.float64) for array in arrays]  # of the rounded ones
    for argument, gradient in enumerate(gradients):
        assert gradient.dtype == dtype
        wanted = np.zeros(gradient.shape)
        for index in np.ndindex(gradient.shape):
            ahead, behind = list(base), list(base)
            step = np.zeros(gradient.shape)
            step[index] = 1e-6
            ahead[argument], behind[argument] = ahead[argument] + step, behind[argument] - step
            difference = loss64(*ahead, labels, case, 4.0, base) - loss64(*behind, labels, case, 4.0, base)
            wanted[index] = difference.sum() / 2e-6
        # The result is rounded; pallas_gpu rounds the gradients of the products, too, or multiplies them in parts.
        rounding = {jnp.float32: 1e-5, jnp.bfloat16: 2**-8}[dtype]
        if implementation == "pallas_gpu":
            rounding += {jnp.float32: left_out(implementation, 4.0, case), jnp.bfloat16: 2**-8}[dtype]
        np.testing.assert_allclose(np.asarray(gradient, np.float64), wanted, atol=rounding * np.abs(wanted).max())


@pytest.mark.parametrize("theta", [1e-6, 3.35e-4, 1e-2, math.pi - 1e-2, math.pi - 3.35e-4])
@pytest.mark.parametrize(
    "case",
    [
        Case(ArcFace(0.5, beyond="smooth")),
        Case(ArcFace(0.5, beyond="smooth"), margin_grad="straight_through"),
        Case(AdaFace(0.4, 0.333)),
    ],
    ids=str,
)
def test_gradient_is_exact_near_the_ends(implementation, case, theta):
    """dψ/dθ = −sin(θ + m), also where √(1 − cos²θ) is 0 in float32. Two classes, at right angles."""
    scale = 3.0
    w = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    x = np.array([[math.cos(theta), math.sin(theta)]], np.float32)
    exact = math.atan2(float(x[0, 1]), float(x[0, 0]))  # of the rounded vector

    def total(x):
        labels = jnp.array([0])
        return margin_softmax(x, w, labels, scale=scale, implementation=implementation, **case.options(x)).sum()

    tangent = np.array([[-math.sin(exact), math.cos(exact)]])
    got = float((jax.grad(total)(x) * tangent).sum())
    g_angle = 0.4 if isinstance(case.margin, AdaFace) else 0.5  # its one row is the shortest there may be: ẑ = −1
    psi, slope = math.cos(exact + g_angle), -math.sin(exact + g_angle)
    if exact + g_angle > math.pi:
        psi, slope = (-2 - psi, -slope) if isinstance(case.margin, ArcFace) else (-math.cos(1e-3), 0)
    if case.margin_grad == "straight_through":
        slope = -math.sin(exact)
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


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32", "int64"])
def test_labels_of_any_width(implementation, dtype):
    """No label becomes another one by being brought to 32 bits."""
    x, w, _ = problem((4, 3, 5))
    known = np.iinfo(dtype)
    outside = min(known.max, 2**32 + 1) if known.bits == 64 else known.max
    labels = np.array([2, outside, 4, max(known.min, -1)], dtype)
    got = margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation)
    as_usual = jnp.array([2, 5, 4, -1 if known.min else 0])
    want = margin_softmax(x, w, as_usual, margin=ArcFace(0.3), scale=5.0, implementation=implementation)
    np.testing.assert_array_equal(got, want)


def test_a_traced_scale_is_taken_or_refused(implementation):
    x, w, labels = problem((4, 3, 5))

    @jax.jit
    def loss(scale):
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=scale, implementation=implementation)

    if implementation != "reference":
        with pytest.raises(NotImplementedError, match="scale must be a number that is known when"):
            loss(5.0)
        return
    want = margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation)
    np.testing.assert_allclose(loss(5.0), want, rtol=1e-6)


def test_vectors_without_direction(implementation):
    x, w, labels = problem((3, 4, 5))
    x[1], w[4] = 0, 0

    def total(x, w):
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation).sum()

    loss, (dx, dw) = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w)
    assert jnp.isfinite(loss) and jnp.isfinite(dx).all() and jnp.isfinite(dw).all()
    np.testing.assert_array_equal(dx[1], 0)
    np.testing.assert_array_equal(dw[4], 0)


def test_of_one_class_there_is_nothing_to_learn(implementation):
    x, w, labels = problem((3, 4, 1))

    def total(x, w):
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation=implementation).sum()

    for number in jax.tree.leaves(jax.value_and_grad(total, (0, 1))(x, w)):
        np.testing.assert_array_equal(number, jnp.zeros_like(number))


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


@pytest.mark.parametrize("how", ["vmap", "pmap", "shard_map", "shard_map without check_vma"])
def test_rows_in_parts(implementation, how):
    """Each part has its losses and the gradient of its rows; that of the weights is the sum over all."""
    case, (x, w, labels) = Case(ArcFace(0.3, beyond="rising")), problem((12, 8, 5))

    def total(x, w, labels):
        args = {"margin": case.margin, "scale": 8.0, "implementation": implementation}
        return margin_softmax(x, w, labels, **args).sum()

    value_and_grad = jax.value_and_grad(total, (0, 1))
    # Over two devices the GPU's interpreter says "Barrier remains allocated"; for two it is lowered, see
    # test_pallas_gpu.py, and compiled, see aot.py.
    parts = 1 if implementation == "pallas_gpu" and how != "vmap" else 4
    if how in ("vmap", "pmap"):
        mapped = {"vmap": jax.vmap, "pmap": jax.pmap}[how](value_and_grad, in_axes=(0, None, 0))
        losses, (dx, dw) = jax.device_get(mapped(x.reshape(parts, -1, 8), w, labels.reshape(parts, -1)))
        loss, dx, dw = losses.sum(), dx.reshape(12, 8), dw.sum(axis=0)
    else:
        mesh = Mesh(jax.devices()[:parts], ("rows",))
        rows, everywhere = PartitionSpec("rows"), PartitionSpec()

        def shard(x, w, labels):
            loss, (dx, dw) = value_and_grad(x, w, labels)
            dw = dw if how == "shard_map" else jax.lax.psum(dw, "rows")  # checked, JAX itself sums what is shared
            return jax.lax.psum(loss, "rows"), (dx, dw)

        specs = {"in_specs": (rows, everywhere, rows), "out_specs": (everywhere, (rows, everywhere))}
        sharded = jax.shard_map(shard, mesh=mesh, check_vma=how == "shard_map", **specs)
        loss, (dx, dw) = jax.jit(sharded)(x, w, labels)
    exact, gradients = gradients64(x, w, labels, case, 8.0)
    rounding = tolerance(8.0, 8) + left_out(implementation, 8.0, case)
    np.testing.assert_allclose(loss, exact, rtol=1e-6, atol=12 * rounding)
    for got, want in zip((dx, dw), gradients, strict=True):
        assert np.linalg.norm(got - want) <= (1e-6 + rounding) * np.linalg.norm(want)


def test_bfloat16_inputs_are_widened_first(implementation):
    x, w, labels = problem((16, 32, 7))
    x, w = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    got = margin_softmax(x, w, labels, margin=ArcFace(0.5), scale=16.0, implementation=implementation)
    assert got.dtype == jnp.float32
    want = loss64(np.asarray(x, np.float64), np.asarray(w, np.float64), labels, Case(ArcFace(0.5)), 16.0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=tolerance(16.0, 32))


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")], ids=" ".join)
def test_of_two_dtypes_the_narrower_is_widened(implementation, dtypes):
    """Neither the wider one nor anything between is rounded to the narrower."""
    x, w, labels = problem((16, 32, 7))
    x, w = (jnp.asarray(array, dtype) for array, dtype in zip((x, w), dtypes, strict=True))
    case = Case(ArcFace(0.5, beyond="rising"))

    def total(x, w):
        return margin_softmax(x, w, labels, margin=case.margin, scale=16.0, implementation=implementation).sum()

    loss, gradients = jax.value_and_grad(total, (0, 1))(x, w)
    exact, want = gradients64(np.asarray(x, np.float64), np.asarray(w, np.float64), labels, case, 16.0)
    off = tolerance(16.0, 32) + left_out(implementation, 16.0, case)
    np.testing.assert_allclose(loss, exact, rtol=1e-5, atol=16 * off)
    for got, gradient, dtype in zip(gradients, want, dtypes, strict=True):
        # Its parts, of the target and of the others, are rounded, and so is their sum.
        atol = (off + 1e-6 + (2 * 2**-8 if dtype == "bfloat16" else 0)) * np.abs(gradient).max()
        np.testing.assert_allclose(np.asarray(got, np.float64), gradient, rtol=0, atol=atol)


def test_gradients_of_many_rows_a_class_are_not_rounded_one_by_one(implementation):
    """In bfloat16 a sum stagnates once it is 2⁸ times what is added; this one is rounded twice at most."""
    x, w, labels = problem((2048, 8, 4))
    x, w = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    case = Case(ArcFace(0.5, beyond="rising"))

    def total(w):
        return margin_softmax(x, w, labels, margin=case.margin, scale=16.0, implementation=implementation).sum()

    got = np.asarray(jax.jit(jax.grad(total))(w), np.float64)
    _, (_, want) = gradients64(np.asarray(x, np.float64), np.asarray(w, np.float64), labels, case, 16.0)
    np.testing.assert_allclose(got, want, rtol=0, atol=2 * 2**-8 * np.abs(want).max())


def test_products_are_of_the_highest_precision(implementation):
    """Elsewhere than on a CPU, float32 would by default be multiplied with fewer bits."""
    if implementation == "pallas_gpu":
        pytest.skip("its products are of bfloat16, in parts")
    x, w, labels = problem((4, 3, 5))
    loss = partial(margin_softmax, margin=ArcFace(0.3), scale=5.0, implementation=implementation)
    lowered = jax.jit(jax.grad(lambda x, w: loss(x, w, labels).sum(), (0, 1))).lower(x, w).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_misfits_are_refused(implementation):
    x, w, labels = problem((4, 3, 5))
    args = {"margin": NormFace(), "scale": 1.0, "implementation": implementation}
    with pytest.raises(ValueError, match=r"share their last dimension D: embeddings \(4, 2\), class_weights \(5, 3\)"):
        margin_softmax(x[:, :2], w, labels, **args)
    with pytest.raises(ValueError, match="share their first dimension N"):
        margin_softmax(x, w, labels[:3], **args)
    with pytest.raises(ValueError, match=r"takes embeddings \[N, D\]"):
        margin_softmax(x[0], w, labels, **args)
    with pytest.raises(ValueError, match=r"none of these 0, .* class_weights \(0, 3\)"):
        margin_softmax(x, w[:0], labels, **args)
    with pytest.raises(ValueError, match=r"class_weights \[C, D\] or \[C, K, D\].* class_weights \(5, 1, 1, 3\)"):
        margin_softmax(x, w[:, None, None], labels, **args)
    with pytest.raises(ValueError, match=r"D: embeddings \(4, 3\), class_weights \(5, 3, 1\)"):
        margin_softmax(x, w[:, :, None], labels, **args)
    with pytest.raises(ValueError, match="margin_grad is exact or straight_through, not 'none'"):
        margin_softmax(x, w, labels, **args, margin_grad="none")
    with pytest.raises(ValueError, match=r"hard_negatives has one t for all rows, not \(4,\)"):
        margin_softmax(x, w, labels, **args, hard_negatives=HardNegatives(jnp.zeros(4), NormFace()))
    with pytest.raises(ValueError, match="labels must be integers, not float32"):
        margin_softmax(x, w, labels.astype(np.float32), **args)
    with pytest.raises(ValueError, match="no implementation 'fast'"):
        margin_softmax(x, w, labels, margin=NormFace(), scale=1.0, implementation="fast")
