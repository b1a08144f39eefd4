"""Margins that are the same for every example and at any time: functions of the target's angle alone."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

Margin: TypeAlias = Callable[[Float[Array, "N"], Float[Array, "N"]], Float[Array, "N"]]


@dataclasses.dataclass(frozen=True)
class NormFace:
    """ψ = cos θ: a softmax over cosines, with no margin.

    Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification, 2017, arXiv:1704.06369.
    """

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return cos_theta


@dataclasses.dataclass(frozen=True)
class CosFace:
    """ψ = cos θ − m.

    Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, 2018, arXiv:1801.09414, eq. 4.
    """

    m: float = 0.35

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return cos_theta - self.m


@dataclasses.dataclass(frozen=True)
class ArcFace:
    """ψ = cos(θ + m), with m in radians.

    Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, 2019, arXiv:1801.07698, eq. 3.

    Beyond θ = π − m that cosine would rise again and pull the embedding the wrong way, so it is replaced:

    - `beyond="classic"`, as the authors' code has it: ψ = cos θ − m·sin m. It falls, but jumps at π − m, from −1 to
      −cos m − m·sin m (−1.117 at m = 0.5).
    - `beyond="smooth"`: ψ = −2 − cos(θ + m), which continues value and slope.
    - `beyond="rising"`: ψ = cos(θ + m) still, as insightface's arcface_torch has it. Its exact gradient turns the
      wrong way there; theirs does not, for it is `margin_grad="straight_through"`: give both to match that code.
    """

    m: float = 0.5
    beyond: Literal["classic", "smooth", "rising"] = "classic"

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        cos_m, sin_m = math.cos(self.m), math.sin(self.m)
        with_margin = cos_theta * cos_m - sin_theta * sin_m
        if self.beyond == "rising":
            return with_margin
        past = cos_theta - self.m * sin_m if self.beyond == "classic" else -2 - with_margin
        return jnp.where(cos_theta > -cos_m, with_margin, past)


@dataclasses.dataclass(frozen=True)
class SphereFace:
    """ψ = (−1)^k·cos(m·θ) − 2k with k = ⌊m·θ/π⌋: the angle multiplied by m, made monotonic.

    Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, 2017, arXiv:1704.08063, eq. 6, with both
    embeddings and class weights normalised, as its successors have it.
    """

    m: float = 1.7

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return Combined(m1=self.m)(cos_theta, sin_theta)


@dataclasses.dataclass(frozen=True)
class Combined:
    """ψ = (−1)^k·cos φ − 2k − m3 with φ = m1·θ + m2 and k = ⌊φ/π⌋.

    The three margins in one, as the ArcFace paper combines them (eq. 4), continued beyond φ = π with value and slope:
    (1, m, 0) is `ArcFace(m, beyond="smooth")`, (1, 0, m) is `CosFace(m)`, (m, 0, 0) is `SphereFace(m)`.
    """

    m1: float = 1.0
    m2: float = 0.0
    m3: float = 0.0

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        phi = self.m1 * jnp.arctan2(sin_theta, cos_theta) + self.m2
        k = jnp.floor(phi / jnp.pi)
        return (1 - 2 * jnp.mod(k, 2)) * jnp.cos(phi) - 2 * k - self.m3


@dataclasses.dataclass(frozen=True)
class Tutorial:
    """The form that many write-ups of ArcFace compute: every cosine is divided by ten before `acos`, and stays so.

    Their logits are s·cos θ / 10 and, for the target, s·cos(θ' + m) with θ' = acos(cos θ / 10); the division was meant
    to keep `acos` away from ±1. It makes the scale in force s / 10, and the margin acts at θ' ≈ π/2, where it is nearly
    the constant −sin m. `margin_softmax_loss` divides its `scale` by `divisor`, so that `scale=s` gives exactly that
    loss; here ψ = divisor·cos(θ' + m) is on the scale of the undivided cosines.
    """

    m: float = 0.5
    divisor: float = 10.0

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        cos_small = cos_theta / self.divisor
        sin_small = jnp.sqrt(1 - cos_small**2)
        return self.divisor * (cos_small * math.cos(self.m) - sin_small * math.sin(self.m))
