"""The margins' contract: monotonic in θ, below the cosine, and equal to each other where they should be."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, Combined, CosFace, NormFace, SphereFace, Tutorial
from jaxnets.margins import BY_NAME

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
    """The classic form jumps to −cos m − m·sin m, −1.117 at m = 0.5; the smooth one goes on from −1 with slope 0."""
    just_past = np.array([math.pi - 0.5 + 1e-4])
    assert psi(ArcFace(0.5), just_past)[0] == pytest.approx(-1.117, abs=1e-3)
    assert psi(ArcFace(0.5, "smooth"), just_past)[0] == pytest.approx(-1, abs=1e-6)
    assert psi(ArcFace(0.5, "smooth"), np.array([math.pi]))[0] == pytest.approx(-2 + math.cos(0.5), abs=1e-6)


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
    for dtype in (jnp.float32, jnp.bfloat16):
        out = jax.eval_shape(margin(), jax.ShapeDtypeStruct((3,), dtype), jax.ShapeDtypeStruct((3,), dtype))
        assert out.dtype == dtype and out.shape == (3,)
