"""Margins that depend on the angle of the target only."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnets.domains import check
from jaxnets.margins.value import Numbers, cos_sin_of, like, value
from jaxnets.naming import nearest

Beyond: TypeAlias = Literal["classic", "smooth", "rising"]
Margin: TypeAlias = Callable[[Float[Array, "N"], Float[Array, "N"]], Float[Array, "N"]]


@value
class NormFace:
    """ψ = cos θ: a softmax over cosines, with no margin.

    Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, 2017, arXiv:1704.06369.
    """

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return cos_theta


@value
class CosFace:
    """ψ = cos θ − m.

    Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, 2018, arXiv:1801.09414, eq. 4.
    """

    m: Numbers = 0.35

    def __post_init__(self) -> None:
        check("CosFace's m", self.m, "[0, 2]")

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return cos_theta - like(self.m, cos_theta)


@value
class ArcFace:
    """ψ = cos(θ + m), with m in radians.

    Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, 2019, arXiv:1801.07698, eq. 3.

    Beyond θ = π − m this cosine would rise again and move the embedding the wrong way. There ψ is replaced:

    - `beyond="classic"`, as in the authors' code: ψ = cos θ − m·sin m. It decreases, but jumps at π − m, from −1 to
      −cos m − m·sin m (−1.117 at m = 0.5).
    - `beyond="smooth"`: ψ = −2 − cos(θ + m), which continues value and slope.
    - `beyond="rising"`: ψ = cos(θ + m) everywhere, as in insightface's arcface_torch. Its exact gradient has the wrong
      sign there. That code does not use it, but the one of `margin_grad="straight_through"`: give both to match it.
    """

    m: Numbers = 0.5
    beyond: Beyond = "classic"

    def __post_init__(self) -> None:
        check("ArcFace's m", self.m, "[0, π/2]", unit="radians")
        if self.beyond not in get_args(Beyond):
            raise ValueError(f"ArcFace has no beyond={self.beyond!r}{nearest(str(self.beyond), get_args(Beyond))}")

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        cos_m, sin_m = cos_sin_of(self.m, cos_theta)
        with_margin = cos_theta * cos_m - sin_theta * sin_m
        if self.beyond == "rising":
            return with_margin
        past = cos_theta - like(self.m, cos_theta) * sin_m if self.beyond == "classic" else -2 - with_margin
        return jnp.where(cos_theta > -cos_m, with_margin, past)


@value
class SphereFace:
    """ψ = (−1)^k·cos(m·θ) − 2k with k = ⌊m·θ/π⌋: the angle multiplied by m, made monotonic.

    Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, 2017, arXiv:1704.08063, eq. 6, with both
    embeddings and class weights normalised, as its successors have it.
    """

    m: Numbers = 1.7

    def __post_init__(self) -> None:
        check("SphereFace's m", self.m, "[1, ∞)")

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return Combined(m1=self.m)(cos_theta, sin_theta)


@value
class Combined:
    """ψ = (−1)^k·cos φ − 2k − m3 with φ = m1·θ + m2 and k = ⌊φ/π⌋.

    The three margins in one, as the ArcFace paper combines them (eq. 4), continued beyond φ = π with value and slope:
    (1, m, 0) is `ArcFace(m, beyond="smooth")`, (1, 0, m) is `CosFace(m)`, (m, 0, 0) is `SphereFace(m)`.
    """

    m1: Numbers = 1.0
    m2: Numbers = 0.0
    m3: Numbers = 0.0

    def __post_init__(self) -> None:
        check("Combined's m1", self.m1, "[1, ∞)")
        check("Combined's m2", self.m2, "[0, π/2]", unit="radians")
        check("Combined's m3", self.m3, "[0, 2]")

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        m1, m2, m3 = (like(number, cos_theta) for number in (self.m1, self.m2, self.m3))
        phi = m1 * jnp.arctan2(sin_theta, cos_theta) + m2
        k = jnp.floor(phi / jnp.pi)
        return (1 - 2 * jnp.mod(k, 2)) * jnp.cos(phi) - 2 * k - m3


@value
class Tutorial:
    """The form that many write-ups of ArcFace compute: every cosine is divided by ten before `acos`, and stays so.

    Their logits are s·cos θ / 10 and, for the target, s·cos(θ' + m) with θ' = acos(cos θ / 10); the division was meant
    to keep `acos` away from ±1. It makes the scale in force s / 10, and the margin acts at θ' ≈ π/2, where it is nearly
    the constant −sin m. `margin_softmax_loss` divides its `scale` by `divisor`, so that `scale=s` gives exactly that
    loss; here ψ = divisor·cos(θ' + m) is on the scale of the undivided cosines.
    """

    m: Numbers = 0.5
    divisor: Numbers = 10.0

    def __post_init__(self) -> None:
        check("Tutorial's m", self.m, "[0, π/2]", unit="radians")
        check("Tutorial's divisor", self.divisor, "(1, ∞)")

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        cos_m, sin_m = cos_sin_of(self.m, cos_theta)
        divisor = like(self.divisor, cos_theta)
        cos_small = cos_theta / divisor
        sin_small = jnp.sqrt(1 - cos_small**2)
        return divisor * (cos_small * cos_m - sin_small * sin_m)
