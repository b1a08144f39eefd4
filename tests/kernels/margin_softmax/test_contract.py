"""The values and gradients that every implementation must give, in float64 NumPy and by hand.

A margin is a function of each row alone, so one program serves all margins: each has rows of its own.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.margins import AdaFace, ArcFace, Combined, CosFace, NormFace, SphereFace, Tutorial
from kernels.margin_softmax import HardNegatives, margin_softmax

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
LENGTHS = {"mean": 6.0, "std": 1.0}  # AdaFace's statistics: some rows lie between the ends of its margin, most do not
GENERIC, ENDS = 4, 2  # rows a margin: in random directions, and at θ = 0 and θ = π
ROWS = GENERIC + ENDS


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an implementation is asked for. `t` is that of the hard negatives, beyond cos(θ + 0.5); 0 means none."""

    num_centers: int = 0
    t: float = 0.0
    margin_grad: str = "exact"
    dtype: str = "float32"
    length: int = 3
    num_classes: int = 5

    def __str__(self):
        return " ".join(str(value) for value in dataclasses.astuple(self))


KINDS = [
    Kind(),
    Kind(dtype="bfloat16"),
    Kind(margin_grad="straight_through"),
    Kind(num_centers=3, dtype="bfloat16", length=2),
    Kind(t=0.4, length=2),
    Kind(num_centers=3, t=0.4, length=33, num_classes=129),
    Kind(num_centers=1, t=-0.1),
    Kind(num_centers=2, t=0.4, margin_grad="straight_through", dtype="bfloat16"),
]


def margins_at(x):
    """(cos θ, sin θ) -> ψ of embeddings x: each margin of its own rows."""
    statistics = {name: jnp.float32(value) for name, value in LENGTHS.items()}
    margins = [m.at(statistics, x) if isinstance(m, AdaFace) else m for m in MARGINS]

    def margin(cos_theta, sin_theta):
        psi = [m(cos_theta, sin_theta) for m in margins]
        return jnp.concatenate([psi[i][i * ROWS : (i + 1) * ROWS] for i in range(len(MARGINS))])

    return margin


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


def psis64(theta, lengths):
    parts = [slice(i * ROWS, (i + 1) * ROWS) for i in range(len(MARGINS))]
    return np.concatenate([psi64(m, theta[part], lengths[part]) for m, part in zip(MARGINS, parts, strict=True)])


def losses64(x, w, labels, kind, scale, base):
    """`base` is the (x, w) at which everything without a gradient is taken."""
    lengths, (base_theta, _) = np.linalg.norm(base[0], axis=1), angles64(*base, labels)
    theta, cosines = angles64(x, w, labels)
    rows = np.arange(len(labels))
    if kind.margin_grad == "straight_through":
        psi = psis64(base_theta, lengths) + np.cos(theta) - np.cos(base_theta)
    else:
        psi = psis64(theta, lengths)
    if kind.t:
        is_hard = cosines > np.cos(theta + 0.5)[:, None]
        cosines = np.where(is_hard, cosines * (kind.t + cosines), cosines)
    logits = scale * cosines
    logits[rows, labels] = scale * psi
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return log_sum - logits[rows, labels]


def angles64(x, w, labels):
    """θ of the targets [N], and all cosines [N, C]; with sub-centres, those to the nearest."""
    w = w if w.ndim == 3 else w[:, None]
    x, w = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, w))
    cosines = np.einsum("nd,ckd->nck", x, w)
    target = w[labels, cosines.argmax(axis=2)[np.arange(len(labels)), labels]]
    theta = 2 * np.arctan2(np.linalg.norm(x - target, axis=1), np.linalg.norm(x + target, axis=1))
    return theta, cosines.max(axis=2)


def problem(kind):
    """Embeddings of which some lie exactly on the first class's centre, or opposite; exact in the kind's dtype."""
    rng = np.random.default_rng(0)
    n, c, d = ROWS * len(MARGINS), kind.num_classes, kind.length
    x, w = rng.normal(size=(n, d)) * 5, rng.normal(size=(c, kind.num_centers, d) if kind.num_centers else (c, d)) / 3
    labels = rng.integers(0, c, n).astype(np.int32)
    first = 0 if not kind.num_centers else (0, 0)
    w[first] = 0.5 * np.eye(d)[0]
    for i in range(GENERIC, n, ROWS):
        x[i : i + ENDS], labels[i : i + ENDS] = np.outer([2, -4], np.eye(d)[0]), 0
    x, w = (np.asarray(jnp.asarray(array, kind.dtype).astype(jnp.float32), np.float64) for array in (x, w))
    return x, w, labels


def tolerance(scale, d):
    """Cosines in float32 are off by a few ulp a term, and a loss by `scale` times that."""
    return 4 * scale * np.finfo(np.float32).eps * math.sqrt(d) + 1e-6


def left_out(implementation, scale, t=0.0):
    """What a loss is off by, and relatively a gradient, as float32 cosines are multiplied in parts.

    A cosine is off by 2⁻¹⁵ at most, see pallas_gpu; a hard negative's logit by |t| + 2 times that, its derivative.
    """
    return scale * (abs(t) + 2 if t else 1) * 2**-15 if implementation == "pallas_gpu" else 0.0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_values_and_gradients(implementation, kind):
    """Against float64: the losses, and central differences of them along each coordinate.

    At θ = 0 and π the angle has a corner: the gradient is the mean of both sides, as central differences are.
    """
    x, w, labels = problem(kind)
    scale, base = 4.0, (x, w)

    @jax.jit
    def value_and_gradients(x, w):
        def total(x, w):
            hard = HardNegatives(kind.t, threshold=ArcFace(0.5, beyond="rising")) if kind.t else None
            options = {"margin_grad": kind.margin_grad, "hard_negatives": hard, "implementation": implementation}
            losses = margin_softmax(x, w, labels, margin=margins_at(x), scale=scale, **options)
            return losses.sum(), losses

        return jax.value_and_grad(total, (0, 1), has_aux=True)(x, w)

    (_, losses), (dx, dw) = value_and_gradients(*(jnp.asarray(array, kind.dtype) for array in base))
    assert losses.dtype == jnp.float32 and dx.dtype == dw.dtype == kind.dtype
    off = tolerance(scale, kind.length) + left_out(implementation, scale, kind.t) * (kind.dtype == "float32")
    np.testing.assert_allclose(losses, losses64(x, w, labels, kind, scale, base), rtol=1e-5, atol=off)

    def differences(argument, index):
        """Of all losses, along one coordinate of all rows of the argument at once."""
        sides = []
        for sign in (1, -1):
            moved = [x.copy(), w.copy()]
            moved[argument][index] += sign * 1e-6
            sides.append(losses64(*moved, labels, kind, scale, base))
        return (sides[0] - sides[1]) / 2e-6

    # In bfloat16 a gradient's parts, of the target and of the others, are rounded and may cancel out. pallas_gpu rounds
    # the gradients of the products, too, or multiplies in parts.
    rounding = (2**-8 * (2 + (implementation == "pallas_gpu")) if kind.dtype == "bfloat16" else 1e-5) + off
    wanted = np.stack([differences(0, np.s_[:, i]) for i in range(kind.length)], axis=1)
    largest = np.abs(wanted).max(axis=1, keepdims=True) if kind.dtype == "float32" else np.abs(wanted).max()
    assert (np.abs(np.asarray(dx, np.float64) - wanted) <= rounding * largest + 2e-7).all()
    some = list(np.ndindex(w.shape))[:: max(w.size // 60, 1)]
    wanted = np.array([differences(1, index).sum() for index in some])
    got = np.array([float(dw[index]) for index in some])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=rounding * np.abs(wanted).max())


def test_gradients_are_the_autodiff_of_the_textbook_in_float64(implementation):
    """acos, add the margin, cos, log-softmax: safe in float64 away from the ends."""
    rng = np.random.default_rng(3)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((9, 5), (6, 5)))
    labels = rng.integers(0, 6, 9).astype(np.int32)

    def textbook(x, w):
        x, w = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (x, w))
        theta = jnp.arccos(x @ w.T)
        is_target = labels[:, None] == np.arange(6)[None, :]
        logits = 7.0 * jnp.cos(theta + 0.1 * is_target.astype(theta.dtype))
        return -(jax.nn.log_softmax(logits, axis=1) * is_target.astype(theta.dtype)).sum()

    with jax.enable_x64(True):
        want = jax.jit(jax.grad(textbook, (0, 1)))(jnp.asarray(x, jnp.float64), jnp.asarray(w, jnp.float64))
        want = [np.asarray(gradient) for gradient in want]

    def total(x, w):
        return margin_softmax(x, w, labels, margin=ArcFace(0.1), scale=7.0, implementation=implementation).sum()

    for gradient, exact in zip(jax.jit(jax.grad(total, (0, 1)))(x, w), want, strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("margin_grad", ["exact", "straight_through"])
def test_gradient_is_exact_near_the_ends(implementation, margin_grad):
    """dψ/dθ = −sin(θ + m), also where √(1 − cos²θ) is 0 in float32. Two classes, at right angles."""
    scale, theta = 3.0, np.array([1e-6, 3.35e-4, 1e-2, math.pi - 1e-2, math.pi - 3.35e-4])
    w, labels = np.eye(2, dtype=np.float32), np.zeros(10, np.int32)
    x = np.tile(np.stack([np.cos(theta), np.sin(theta)], axis=1), (2, 1)).astype(np.float32)
    adaface = AdaFace(0.4, 0.333).at({name: jnp.float32(value) for name, value in LENGTHS.items()}, jnp.asarray(x))

    def margin(cos_theta, sin_theta):
        both = ArcFace(0.5, beyond="smooth")(cos_theta, sin_theta), adaface(cos_theta, sin_theta)
        return jnp.concatenate([both[0][:5], both[1][5:]])

    def total(x):
        options = {"margin_grad": margin_grad, "implementation": implementation}
        return margin_softmax(x, w, labels, margin=margin, scale=scale, **options).sum()

    exact = np.arctan2(x[:, 1].astype(np.float64), x[:, 0])  # of the rounded vectors
    got = (np.asarray(jax.jit(jax.grad(total))(x)) * np.stack([-np.sin(exact), np.cos(exact)], axis=1)).sum(axis=1)
    g_angle = np.repeat([0.5, 0.4], 5)  # AdaFace's rows are the shortest there may be: ẑ = −1
    psi, slope = np.cos(exact + g_angle), -np.sin(exact + g_angle)
    is_past, is_smooth = exact + g_angle > np.pi, np.arange(10) < 5
    psi = np.where(is_past, np.where(is_smooth, -2 - psi, -math.cos(1e-3)), psi)
    slope = np.where(is_past, np.where(is_smooth, -slope, 0), slope)
    slope = -np.sin(exact) if margin_grad == "straight_through" else slope
    q = 1 / (1 + np.exp(scale * (psi - np.sin(exact))))
    np.testing.assert_allclose(got, q * scale * (np.cos(exact) - slope), rtol=2e-5)


def test_by_hand(implementation):
    """Two orthogonal classes and an embedding on the first: cos = (1, 0), so the loss is log(1 + e^(0 − s·ψ))."""
    margins = [NormFace(), CosFace(0.35), ArcFace(0.5), SphereFace(1.7), Combined(1.0, 0.3, 0.2), Tutorial(0.5)]
    psi = [1, 0.65, math.cos(0.5), 1, math.cos(0.3) - 0.2, 10 * math.cos(math.acos(0.1) + 0.5)]
    x, w, labels = np.tile(np.float32([3, 0]), (6, 1)), np.float32([[2, 0], [0, 5]]), np.zeros(6, np.int32)

    def margin(cos_theta, sin_theta):
        return jnp.stack([m(cos_theta, sin_theta)[i] for i, m in enumerate(margins)])

    losses = jax.jit(lambda x, w: margin_softmax(x, w, labels, margin=margin, scale=2, implementation=implementation))
    np.testing.assert_allclose(losses(x, w), np.log1p(np.exp(-2 * np.array(psi))), rtol=1e-6)


def test_hard_negatives_by_hand(implementation):
    """An embedding on the other of two orthogonal classes: c = 1 > cos(90° + 0.5) counts as 1·(0.3 + 1)."""
    x, w = np.float32([[0, 3]]), np.float32([[2, 0], [0, 5]])
    options = {"hard_negatives": HardNegatives(0.3, ArcFace(0.5, beyond="rising")), "implementation": implementation}
    loss = jax.jit(lambda x, w: margin_softmax(x, w, [0], margin=ArcFace(0.5), scale=2.0, **options))(x, w)
    np.testing.assert_allclose(loss, [math.log1p(math.exp(2 * 1.3 + 2 * math.sin(0.5)))], rtol=1e-6)


def test_subcenters_by_hand(implementation):
    """The nearest counts, of the target's as of the other class's: cosines 0.8 and 0.6, of −1 and −0.6 nothing is seen.

    Between two equally near, the first has all of the gradient.
    """
    x = np.float32([[1, 0]])
    w = np.float32([[[-1, 0], [8, 6], [8, 6]], [[0.6, 0.8], [-0.6, 0.8], [0.6, 0.8]]])

    def loss(w):
        return margin_softmax(x, w, [0], margin=CosFace(0.2), scale=3.0, implementation=implementation)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(w)
    parts = left_out(implementation, 3.0)
    assert float(value) == pytest.approx(math.log1p(math.exp(3 * 0.6 - 3 * (0.8 - 0.2))), rel=1e-6, abs=parts)
    np.testing.assert_array_equal(np.abs(gradient).max(axis=2) > 0, [[False, True, False], [True, False, False]])
