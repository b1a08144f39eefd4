"""ElasticFace: margins drawn anew for each row and each step.

For example, with margin = ElasticArcFace(), a key of the step and N embeddings:

    losses = margin_softmax_loss(embeddings, class_weights, labels, margin=margin.drawn(key, N), scale=64.0)

`jaxnets.MarginHead` draws in each step, by the state's key. Over devices, the key is the same on all of them, and N the
number of all rows that the loss is given; or `axis_name` tells over which axes a batch is split, of which N are here.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnets.domains import check
from jaxnets.margins.fixed import ArcFace, CosFace, Margin
from jaxnets.margins.value import Numbers, value
from kernels.varying import Axes


@runtime_checkable
class DrawnMargin(Protocol):
    """The methods of a margin that is drawn by a key, which a class of your own may have too."""

    def drawn(self, key: Array, num_rows: int, axis_name: Axes | None = None) -> Margin:
        """The margin of `num_rows` rows, by a key of this step.

        With `axis_name` the rows are this device's equal share of a batch that is split along the mapped axis, or axes;
        each row has the same margin as in the whole batch.
        """

    @property
    def mean(self) -> Margin:
        """Without noise, as evaluation takes it."""


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

    def drawn(self, key: Array, num_rows: int, axis_name: Axes | None = None) -> ArcFace:
        return ArcFace(_normal(key, num_rows, axis_name, self.m, self.std, 1.57))

    @property
    def mean(self) -> ArcFace:
        return ArcFace(self.m)

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

    def drawn(self, key: Array, num_rows: int, axis_name: Axes | None = None) -> CosFace:
        return CosFace(_normal(key, num_rows, axis_name, self.m, self.std, 2.0))

    @property
    def mean(self) -> CosFace:
        return CosFace(self.m)

    def __call__(self, cos_theta: Float[Array, "N"], sin_theta: Float[Array, "N"]) -> Float[Array, "N"]:
        raise ValueError(f"{self} draws its margins: give its .drawn(key, num_rows)")


def _normal(
    key: Array, count: int, axis_name: Axes | None, mean: Numbers, std: Numbers, largest: float
) -> Float[Array, "N"]:
    shares = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    noise = jax.random.normal(key, (count * shares,))
    if axis_name is not None:
        noise = jax.lax.dynamic_slice_in_dim(noise, count * jax.lax.axis_index(axis_name), count)
    mean, std = (jnp.asarray(number, noise.dtype) for number in (mean, std))
    return jnp.clip(mean + std * noise, 0, largest)
