"""Angular margins: the cosine of the target class in, the cosine with its margin out.

A margin is a frozen dataclass, called as `margin(cos_theta, sin_theta)`, both [N] and of one dtype, where theta is
the angle in radians, in [0, π], between an embedding and the weight vector of its own class. It returns ψ, [N]; the
target's logit is `scale * ψ`, and every other class keeps `scale * cos_theta`. Anything with that signature serves
as a margin: a lambda, or a dataclass of your own.

Why the sine is handed in: near θ = 0 and θ = π, √(1 − cos²θ) has lost half of its digits, or all of them in bfloat16.
`kernels.margin_softmax` computes it from the vectors themselves, where it is exact, with finite gradients.

Two of them, in `adaptive`, follow the training and have statistics; see there for how to use one. MagFace, in
`magnitude`, depends on the embeddings' lengths; a key draws the margins in `elastic`.
"""

from collections.abc import Mapping
from typing import Any

from jaxnets.margins.adaptive import AdaFace as AdaFace
from jaxnets.margins.adaptive import AdaptiveMargin as AdaptiveMargin
from jaxnets.margins.adaptive import CurricularFace as CurricularFace
from jaxnets.margins.adaptive import Curriculum as Curriculum
from jaxnets.margins.adaptive import Statistics as Statistics
from jaxnets.margins.adaptive import sharded_update as sharded_update
from jaxnets.margins.elastic import DrawnMargin as DrawnMargin
from jaxnets.margins.elastic import ElasticArcFace as ElasticArcFace
from jaxnets.margins.elastic import ElasticCosFace as ElasticCosFace
from jaxnets.margins.fixed import ArcFace as ArcFace
from jaxnets.margins.fixed import Combined as Combined
from jaxnets.margins.fixed import CosFace as CosFace
from jaxnets.margins.fixed import Margin as Margin
from jaxnets.margins.fixed import NormFace as NormFace
from jaxnets.margins.fixed import SphereFace as SphereFace
from jaxnets.margins.fixed import Tutorial as Tutorial
from jaxnets.margins.magnitude import MagFace as MagFace
from jaxnets.margins.magnitude import OfMagnitude as OfMagnitude

BY_NAME: Mapping[str, type[Any]] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "sphereface": SphereFace,
    "combined": Combined,
    "normface": NormFace,
    "tutorial": Tutorial,
    "adaface": AdaFace,
    "curricularface": CurricularFace,
    "magface": MagFace,
    "elastic_arcface": ElasticArcFace,
    "elastic_cosface": ElasticCosFace,
}
