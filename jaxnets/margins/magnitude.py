"""MagFace: a margin that grows with the embedding's length, and a penalty that makes embeddings long.

Used as the margins of `adaptive` are, though it has no statistics: `margin.at({}, embeddings)`, or the margin itself in
`jaxnets.MarginHead` and `sharded_margin_softmax_loss`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnets.domains import check
from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.margins.fixed import ArcFace, Margin
from jaxnets.margins.value import Numbers, like, value
from kernels.margin_softmax import Axes
from kernels.precision import wide


@value
class MagFace:
    """ψ_i = cos(θ + m(a_i)), and the loss has λ·g(a_i) added: a_i = ‖x_i‖ is the quality of an image.

    m(a) = l_m + (u_m − l_m)·(a − l_a)/(u_a − l_a) and g(a) = 1/a + a/u_a², with a clipped to [l_a, u_a]. A long
    embedding has a large margin, which pays where it is near its class; g alone makes embeddings longer. Both have
    gradients along the length.

    Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment, 2021,
    arXiv:2103.06627, L_Mag with the linear m(a) and the g(a) of its experiments. As ArcFace's "classic" form, ψ is
    cos θ − m·sin m past θ = π − m.
    """

    l_m: Numbers = 0.45
    u_m: Numbers = 0.8
    l_a: Numbers = 10.0
    u_a: Numbers = 110.0
    weight: Numbers = 35.0

    def __post_init__(self) -> None:
        check("MagFace's l_m", self.l_m, "[0, π/2]", unit="radians")
        check("MagFace's u_m", self.u_m, "[0, π/2]", unit="radians")
        check("MagFace's l_a", self.l_a, "(0, ∞)")
        check("MagFace's u_a", self.u_a, "(0, ∞)")
        check("MagFace's weight", self.weight, "[0, ∞)")
        lengths = self.l_a, self.u_a
        if not any(isinstance(length, jax.core.Tracer) for length in lengths) and np.any(np.less_equal(*lengths[::-1])):
            raise ValueError(f"MagFace's u_a must be above its l_a, {self.l_a}, not {self.u_a}")

    def init(self) -> dict[str, Array]:
        return {}

    def update(
        self,
        statistics: dict[str, Array],
        embeddings: Vectors,
        class_weights: ClassWeights,
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> dict[str, Array]:
        return statistics

    def at(self, statistics: dict[str, Array], embeddings: Vectors) -> Margin:
        lengths = _lengths(jnp.asarray(embeddings))
        l_m, u_m, l_a, u_a, weight = (
            like(number, lengths) for number in (self.l_m, self.u_m, self.l_a, self.u_a, self.weight)
        )
        a = jnp.clip(lengths, l_a, u_a)
        return OfMagnitude(l_m + (u_m - l_m) * (a - l_a) / (u_a - l_a), weight * (1 / a + a / u_a**2))


@value
class OfMagnitude:
    """MagFace for embeddings of known length: each row's m, and the penalty that is added to its loss; both [N]."""

    m: Float[Array, "N"]
    penalty: Float[Array, "N"]

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        return ArcFace(self.m)(cos_theta, sin_theta)


def _lengths(embeddings: Float[Array, "N D"]) -> Float[Array, "N"]:
    """In float32 at least, with a gradient that is finite: 0 for a zero vector and for a row with NaN.

    A row of label −1 may hold NaN; of other rows the cosine is NaN already.
    """
    x = embeddings.astype(wide(embeddings.dtype))
    squares = jnp.sum(jnp.where(jnp.isfinite(x).all(axis=1, keepdims=True), x, 0) ** 2, axis=1)
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
