"""ElasticFace: margins drawn anew for each row and each step.

For example, with margin = ElasticArcFace(), a key of the step and N embeddings:

    losses = margin_softmax_loss(embeddings, class_weights, labels, margin=margin.drawn(key, N), scale=64.0)

Over devices with a share of the classes each, N is the number of all their rows, and the key the same on all devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnets.domains import check
from jaxnets.margins.fixed import ArcFace, CosFace
from jaxnets.margins.value import Numbers, value


@value
class ElasticArcFace:
    """ArcFace with m_i ~ N(m, std²) for each row i, in radians, clipped to [0, 1.57].

    Boutros et al., ElasticFace: Elastic Margin Loss for Deep Face Recognition, 2022, arXiv:2109.09416, L_EArc. The
    paper draws without clipping, which its deviations hardly ever meet.
    """

    m: Numbers = 0.5
    std: Numbers = 0.0125

    def __post_init__(self) -> None:
        check("ElasticArcFace's m", self.m, "[0, π/2]", unit="radians")
        check("ElasticArcFace's std", self.std, "[0, ∞)", unit="radians")

    def drawn(self, key: Array, num_rows: int) -> ArcFace:
        """The margin of `num_rows` rows, by a key of this step."""
        return ArcFace(_normal(key, num_rows, self.m, self.std, 1.57))

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        raise ValueError(f"{self} draws its margins: give its .drawn(key, num_rows)")


@value
class ElasticCosFace:
    """CosFace with m_i ~ N(m, std²) for each row i, clipped to [0, 2].

    Boutros et al., as `ElasticArcFace`, L_ECos.
    """

    m: Numbers = 0.35
    std: Numbers = 0.0125

    def __post_init__(self) -> None:
        check("ElasticCosFace's m", self.m, "[0, 2]")
        check("ElasticCosFace's std", self.std, "[0, ∞)")

    def drawn(self, key: Array, num_rows: int) -> CosFace:
        """The margin of `num_rows` rows, by a key of this step."""
        return CosFace(_normal(key, num_rows, self.m, self.std, 2.0))

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        raise ValueError(f"{self} draws its margins: give its .drawn(key, num_rows)")


def _normal(key: Array, count: int, mean: Numbers, std: Numbers, largest: float) -> Float[Array, "N"]:
    noise = jax.random.normal(key, (count,))
    mean, std = (jnp.asarray(number, noise.dtype) for number in (mean, std))
    return jnp.clip(mean + std * noise, 0, largest)
