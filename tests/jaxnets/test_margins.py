"""The margins' contract: monotonic in θ, below the cosine, and equal to each other where they should be."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, Combined, CosFace, NormFace, SphereFace, Tutorial
from jaxnets.margins import BY_NAME, AdaFace, AdaptiveMargin, CurricularFace, ElasticArcFace, ElasticCosFace

THETA = np.linspace(0, math.pi, 1001)


def psi(margin, theta=THETA):
    return np.asarray(margin(jnp.float32(np.cos(theta)), jnp.float32(np.sin(theta))))


@pytest.mark.parametrize(
    "margin",
    [
        NormFace(),
        CosFace(0.35),
        ArcFace(0.5),
        ArcFace(0.5, "smooth"),
        SphereFace(1.7),
        SphereFace(4),
        Combined(1.2, 0.3, 0.1),
    ],
    ids=repr,
)
def test_falls_with_the_angle_and_never_exceeds_the_cosine(margin):
    assert (np.diff(psi(margin)) <= 1e-6).all()
    assert (psi(margin) <= np.cos(THETA) + 1e-6).all()


def test_the_margin_is_met_where_the_published_form_says():
    """An ArcFace target at θ counts as much as a plain one at θ + m."""
    theta = np.linspace(0, math.pi - 0.51, 100)
    np.testing.assert_allclose(psi(ArcFace(0.5), theta), np.cos(theta + 0.5), atol=1e-6)


def test_past_pi_minus_m():
    """Classic: a jump to −cos m − m·sin m, −1.117 at m = 0.5. Smooth: on from −1 with slope 0. Rising: up again."""
    just_past = np.array([math.pi - 0.5 + 1e-4])
    assert psi(ArcFace(0.5), just_past)[0] == pytest.approx(-1.117, abs=1e-3)
    assert psi(ArcFace(0.5, "smooth"), just_past)[0] == pytest.approx(-1, abs=1e-6)
    assert psi(ArcFace(0.5, "smooth"), np.array([math.pi]))[0] == pytest.approx(-2 + math.cos(0.5), abs=1e-6)
    assert psi(ArcFace(0.5, "rising"), np.array([math.pi]))[0] == pytest.approx(-math.cos(0.5), abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Combined(1, 0.5, 0), ArcFace(0.5, "smooth")),
        (Combined(1, 0, 0.35), CosFace(0.35)),
        (Combined(1.7, 0, 0), SphereFace(1.7)),
        (Combined(), NormFace()),
        (ArcFace(0.0), NormFace()),
    ],
    ids=str,
)
def test_special_cases(one, other):
    np.testing.assert_allclose(psi(one), psi(other), atol=2e-6)


def test_spheface_with_m_4_by_hand():
    """m·θ = 4·60° = 240° lies in the second half-turn: k = 1, ψ = −cos 240° − 2 = −1.5."""
    assert psi(SphereFace(4), np.array([math.pi / 3]))[0] == pytest.approx(-1.5, abs=1e-5)


def test_tutorial_by_hand():
    """cos θ = 1 becomes 0.1: 10·cos(acos 0.1 + 0.5) = 0.1·10·cos 0.5 − 10·√0.99·sin 0.5."""
    want = math.cos(0.5) - 10 * math.sqrt(0.99) * math.sin(0.5)
    assert psi(Tutorial(0.5), np.array([0.0]))[0] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("margin", BY_NAME.values(), ids=lambda margin: margin.__name__)
def test_is_a_hashable_value_and_keeps_its_dtype(margin):
    assert margin() == margin() and hash(margin()) == hash(margin())
    function = margin()
    if issubclass(margin, AdaptiveMargin):
        function = function.at(function.init(), jnp.ones((3, 2)))
    if issubclass(margin, (ElasticArcFace, ElasticCosFace)):
        function = function.drawn(jax.random.key(0), 3)
    for dtype in (jnp.float32, jnp.bfloat16):
        out = jax.eval_shape(function, jax.ShapeDtypeStruct((3,), dtype), jax.ShapeDtypeStruct((3,), dtype))
        assert out.dtype == dtype and out.shape == (3,)


NUMBERS = {  # of each margin: other numbers than its defaults
    ArcFace: {"m": 0.3},
    CosFace: {"m": 0.2},
    SphereFace: {"m": 2.5},
    Combined: {"m1": 1.2, "m2": 0.3, "m3": 0.1},
    Tutorial: {"m": 0.3, "divisor": 5.0},
    AdaFace: {"m": 0.3, "h": 0.5, "t_alpha": 0.1},
    CurricularFace: {"m": 0.3},
}


def bound(margin):
    """An adaptive margin at the start of its statistics, others as they are."""
    return margin.at(margin.init(), with_lengths(*range(1, 1002))) if hasattr(margin, "at") else margin


@pytest.mark.parametrize("margin", NUMBERS, ids=lambda margin: margin.__name__)
def test_numbers_may_be_traced_and_do_not_compile_anew(margin):
    traces = []

    @jax.jit
    def compiled(margin, cos_theta, sin_theta):
        traces.append(margin)
        return bound(margin)(cos_theta, sin_theta)

    cos_theta, sin_theta = jnp.float32(np.cos(THETA)), jnp.float32(np.sin(THETA))
    for numbers in ({}, NUMBERS[margin]):
        want = bound(margin(**numbers))(cos_theta, sin_theta)
        np.testing.assert_allclose(compiled(margin(**numbers), cos_theta, sin_theta), want, atol=4e-6)
    assert len(traces) == 1
    a_row = margin(**{name: jnp.full(1001, value) for name, value in NUMBERS[margin].items() if name != "t_alpha"})
    np.testing.assert_allclose(compiled(a_row, cos_theta, sin_theta), want, atol=4e-6)


def test_the_gradient_in_m_is_that_of_the_cosine():
    """∂cos(θ + m)/∂m = −sin(θ + m), each row with its own m; CosFace's is −1."""
    theta, m = np.array([0.3, 1.1, 2.0]), np.array([0.1, 0.5, 0.9])
    sums = jax.jit(jax.grad(lambda margin: margin(jnp.float32(np.cos(theta)), jnp.float32(np.sin(theta))).sum()))
    np.testing.assert_allclose(sums(ArcFace(jnp.float32(m))).m, -np.sin(theta + m), rtol=1e-5)
    np.testing.assert_allclose(sums(CosFace(jnp.float32(m))).m, [-1, -1, -1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ArcFace(28.6),
            r"ArcFace's m must be in \[0, π/2\] radians, not 28.6; 28.6 degrees are 0.4992 radians",
        ),
        (lambda: ArcFace(math.nan), r"ArcFace's m must be in \[0, π/2\] radians, not nan$"),
        (lambda: ArcFace(-0.1), r"ArcFace's m must be in \[0, π/2\] radians, not -0.1$"),
        (lambda: ArcFace(jnp.array([0.1, 30.0])), r"not 30.0; 30 degrees are 0.5236 radians"),
        (lambda: ArcFace(beyond="clasic"), r"ArcFace has no beyond='clasic'; did you mean 'classic'\?"),
        (lambda: CosFace(35), r"CosFace's m must be in \[0, 2\], not 35"),
        (lambda: SphereFace(0.5), r"SphereFace's m must be in \[1, ∞\), not 0.5"),
        (lambda: Combined(m2=math.pi), r"Combined's m2 must be in \[0, π/2\] radians, not 3.14"),
        (lambda: Tutorial(divisor=1.0), r"Tutorial's divisor must be in \(1, ∞\), not 1.0"),
        (lambda: AdaFace(t_alpha=0.0), r"AdaFace's t_alpha must be in \(0, 1\], not 0.0"),
        (lambda: CurricularFace(30), r"CurricularFace's m must be in .*; 30 degrees are 0.5236 radians"),
    ],
)
def test_numbers_outside_their_domain_are_refused(make, message, unenforced):
    with pytest.raises(ValueError, match=message):
        make()


def statistics_of(**values):
    return {name: jnp.float32(value) for name, value in values.items()}


def with_lengths(*lengths):
    return jnp.array([[0.6 * length, 0.8 * length] for length in lengths], jnp.float32)


def test_adaface_between_arcface_and_beyond_cosface():
    """By its equation, at σ + 0.001 = 3: ẑ = −1, 0, ⅓ and 1 of lengths 1, 10, 11 and 30, since h = 1."""
    margin = AdaFace(m=0.4, h=1.0).at(statistics_of(mean=10, std=2.999), with_lengths(1, 10, 11, 30))
    for theta in (0.5, 1.5, 2.7):
        wanted = [
            math.cos(theta + 0.4),  # ArcFace
            math.cos(theta) - 0.4,  # CosFace
            math.cos(theta - 0.4 / 3) - 0.4 - 0.4 / 3,
            math.cos(theta - 0.4) - 0.8,
        ]
        np.testing.assert_allclose(psi(margin, np.full(4, theta)), wanted, atol=1e-6)


def test_adaface_stops_at_the_ends_of_the_circle():
    """θ + g is kept within 0.001…π − 0.001: with m = 0.4, from θ = π − 0.401 on for the shortest, up to 0.401 else."""
    margin = AdaFace(m=0.4).at(statistics_of(mean=10, std=1), with_lengths(0.1, 90))
    slope = jax.grad(lambda theta: margin(jnp.cos(theta), jnp.sin(theta)).sum())
    np.testing.assert_allclose(psi(margin, np.array([3.0, 0.2])), [-1, 1 - 0.8], atol=1e-5)
    np.testing.assert_array_equal(slope(jnp.array([3.0, 0.2])), [0, 0])
    np.testing.assert_allclose(slope(jnp.array([2.0, 0.6])), [-math.sin(2.4), -math.sin(0.2)], atol=1e-5)


def test_adaface_statistics_by_hand():
    """Lengths 3, 5 and, clipped, 100: mean 36, squares 1089 + 961 + 4096, deviation √(6146/2) = 55.43; a hundredth."""
    margin, labels = AdaFace(), jnp.array([0, 1, 0, -1])
    batch = (with_lengths(3, 5, 1000, 7), jnp.ones((2, 2)), labels)
    got = margin.update(margin.init(), *batch)
    assert float(got["mean"]) == pytest.approx(0.99 * 20 + 0.01 * 36, rel=1e-6)
    assert float(got["std"]) == pytest.approx(0.99 * 100 + 0.01 * math.sqrt(3073), rel=1e-6)
    at_once = AdaFace(t_alpha=1.0).update(margin.init(), *batch)
    assert float(at_once["std"]) == pytest.approx(math.sqrt(3073), rel=1e-6)
    alone = AdaFace(t_alpha=1.0).update(margin.init(), with_lengths(4), jnp.ones((2, 2)), jnp.array([1]))
    assert (float(alone["mean"]), float(alone["std"])) == (pytest.approx(4), 0)


def test_curricularface_statistics_by_hand():
    """The rows' cosines to their own classes are 0.6 and 1 (to the nearer sub-centre): a hundredth of their mean."""
    x, labels = with_lengths(3, 5, 2), jnp.array([0, 1, -1])
    w = jnp.array([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, -2.0], [3.0, 4.0]]])
    got = CurricularFace().update(statistics_of(t=0.5), x, w, labels)
    assert float(got["t"]) == pytest.approx(0.99 * 0.5 + 0.01 * 0.8, rel=1e-6)
    assert CurricularFace().init() == {"t": 0}


def test_curricularface_is_arcface_with_hard_negatives():
    now = CurricularFace(0.5).at(statistics_of(t=0.3), with_lengths(1))
    np.testing.assert_array_equal(psi(now), psi(ArcFace(0.5)))
    threshold = now.hard_negatives.threshold(jnp.float32(np.cos(THETA)), jnp.float32(np.sin(THETA)))
    np.testing.assert_allclose(threshold, np.cos(THETA + 0.5), atol=1e-6)  # past π − m too
    assert now.hard_negatives.t == jnp.float32(0.3)


ADAPTIVE = [AdaFace(), CurricularFace()]


@pytest.mark.parametrize("margin", ADAPTIVE, ids=repr)
def test_statistics_of_shares_are_those_of_the_whole(margin):
    """Means of the shares' deviations would not be; nor means over shares in which rows without a class differ."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(12, 3)) * 10 ** rng.normal(size=(12, 1)), rng.normal(size=(5, 3))
    x, w, labels = jnp.float32(x), jnp.float32(w), jnp.array([0, -1, 2, 3, 4, 0, -1, -1, -1, 1, 2, 3])
    whole = margin.update(margin.init(), x, w, labels)
    shares = jax.vmap(lambda x, labels: margin.update(margin.init(), x, w, labels, "shares"), axis_name="shares")(
        x.reshape(3, 4, 3), labels.reshape(3, 4)
    )
    for name, value in whole.items():
        np.testing.assert_allclose(shares[name], [value] * 3, rtol=1e-6)


@pytest.mark.parametrize("margin", ADAPTIVE, ids=repr)
def test_statistics_pass_no_gradient_and_leave_out_rows_without_a_class(margin):
    x, w = with_lengths(3, 5), jnp.eye(2)

    def moved(x, w):
        return sum(margin.update(margin.init(), x, w, jnp.array([0, 1])).values())

    assert all((gradient == 0).all() for gradient in jax.grad(moved, (0, 1))(x, w))
    nobody = margin.update(margin.init(), x, w, jnp.array([-1, -1]))
    assert nobody == margin.init()
    for label in (2, -2):
        assert all(jnp.isnan(value) for value in margin.update(margin.init(), x, w, jnp.array([0, label])).values())
