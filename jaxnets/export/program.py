"""What is exported: a function of images alone, its weights and all that comes before and after the network in it."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.export
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr  # type: ignore[attr-defined]  # of newer JAX, an alias without a stub
from jaxtyping import Array, Float, UInt8

from jaxnets.train import as_floats
from kernels.margin_softmax.geometry import directions
from kernels.platform import portable

if TYPE_CHECKING:
    from flax import linen as nn

Output: TypeAlias = Literal["embeddings", "scores"]
Weights: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """`apply(weights, images)` makes `output`, float32 [N, …], of uint8 images [N, *image_shape] in 0 … 255.

    Jitted as it is, `apply` is as fast as this machine can do it. `trace` has the form for any machine.
    """

    apply: Callable[[Weights, UInt8[Array, "N H W C"]], Float[Array, "N ..."]]
    weights: Weights
    image_shape: tuple[int, int, int]
    output: Output

    def trace(self) -> ClosedJaxpr:
        """A function of images alone in XLA's own operations, in full float32, for any N."""
        batch = jax.export.symbolic_shape("N")
        images = jax.ShapeDtypeStruct((*batch, *self.image_shape), jnp.uint8)
        with portable(), jax.default_matmul_precision("float32"):
            return jax.make_jaxpr(partial(self.apply, self.weights))(images)


def embeddings(model: "nn.Module", variables: Mapping[str, Any], image_shape: tuple[int, int, int]) -> Program:
    """The network's outputs [N, D], as they are before any head.

    Args:
      model: one of `jaxnets.create`.
      variables: {"params": …, "batch_stats": …}, as `model.apply` takes them; other collections are left out.
      image_shape: (H, W, C).
    """
    return Program(_forward(model), _float32(variables), image_shape, "embeddings")


def scores(
    model: "nn.Module",
    variables: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    class_weights: Float[Array, "C D"] | Float[Array, "C K D"] | None = None,
    *,
    scale: float = 1.0,
) -> Program:
    """A number for each class [N, C], the largest for the nearest.

    Args:
      model: one of `jaxnets.create`.
      variables: {"params": …, "batch_stats": …}, as `model.apply` takes them; other collections are left out.
      image_shape: (H, W, C).
      class_weights: of a margin head: the scores are `jaxnets.losses.cosines`, free of the margin. None for a network
        whose outputs are scores already.
      scale: what cosines are multiplied by. With the s of training, a softmax gives the probabilities it trained with.
    """
    forward, weights = _forward(model), _float32(variables)
    if class_weights is None:
        return Program(forward, weights, image_shape, "scores")
    unit = scale * directions(jnp.asarray(class_weights, jnp.float32))
    num_classes, *subcenters, dimensions = unit.shape

    def cosines(weights: Weights, images: UInt8[Array, "N H W C"]) -> Float[Array, "N C"]:
        to_each = directions(forward(weights, images)) @ weights["unit"].T
        # `losses.cosines` looks up the first of equal maxima instead, for the gradient's sake.
        return to_each.reshape(to_each.shape[0], num_classes, -1).max(axis=2) if subcenters else to_each

    return Program(cosines, {**weights, "unit": unit.reshape(-1, dimensions)}, image_shape, "scores")


def _forward(model: "nn.Module") -> Callable[[Weights, UInt8[Array, "N H W C"]], Float[Array, "N D"]]:
    def forward(weights: Weights, images: UInt8[Array, "N H W C"]) -> Float[Array, "N D"]:
        variables = {name: weights[name] for name in ("params", "batch_stats")}
        return model.apply(variables, as_floats(images, variables["params"]), train=False)

    return forward


def _float32(variables: Mapping[str, Any]) -> Weights:
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)
