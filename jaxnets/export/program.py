"""The exported function: from pixels to embeddings or scores, with its weights."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxnets.train import as_floats
from kernels.margin_softmax.geometry import directions, directions_by_division
from kernels.platform import portable

if TYPE_CHECKING:
    from flax import linen as nn

Output: TypeAlias = Literal["embeddings", "scores"]
Weights: TypeAlias = dict[str, Any]
ClassWeights: TypeAlias = Float[Array | np.ndarray, "C D"] | Float[Array | np.ndarray, "C K D"]


@dataclasses.dataclass(frozen=True)
class Program:
    """`apply(weights, images)` makes `output`, float32 [N, …], of uint8 images [N, *image_shape] in 0 … 255.

    Jitted, `apply` uses the fastest implementations for this machine. `lowered` has the form for any machine.
    """

    apply: Callable[[Weights, UInt8[Array, "N H W channels"]], Float[Array, "N ..."]]
    weights: Weights
    image_shape: tuple[int, int, int]
    output: Output

    def lowered(self, platforms: Sequence[str], *, weights_within: bool = False) -> jax.export.Exported:
        """`apply` in StableHLO, of XLA's own operations in full float32, for any N ≥ 1.

        With `weights_within` it is a function of images alone, and the weights are constants.
        """
        batch = jax.export.symbolic_shape("N")
        images = jax.ShapeDtypeStruct((*batch, *self.image_shape), jnp.uint8)
        # JAX caches traces by function. New functions are traced anew, in the portable form.
        if weights_within:
            function = jax.jit(lambda images: self.apply(self.weights, images))
            arguments: tuple[Any, ...] = (images,)
        else:
            function = jax.jit(lambda weights, images: self.apply(weights, images))
            arguments = (jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.weights), images)
        with portable(), jax.default_matmul_precision("float32"):
            return jax.export.export(function, platforms=platforms)(*arguments)


def embeddings(model: "nn.Module", variables: Mapping[str, Any], image_shape: tuple[int, int, int]) -> Program:
    """The network's outputs [N, D], before any head.

    Args:
      model: one of `jaxnets.create`.
      variables: {"params": …, "batch_stats": …}, as `model.apply` takes them; other collections are left out.
      image_shape: (H, W, C).

    Raises:
      ValueError: for weights that are not finite, with the name of the first array of them, and for a state's params.
    """
    return Program(_forward(model), _float32(variables), image_shape, "embeddings")


def scores(
    model: "nn.Module",
    variables: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    class_weights: ClassWeights | None = None,
    *,
    scale: float = 1.0,
) -> Program:
    """A number for each class [N, C], the largest for the nearest.

    Args:
      model: one of `jaxnets.create`.
      variables: {"params": …, "batch_stats": …}, as `model.apply` takes them; other collections are left out.
      image_shape: (H, W, C).
      class_weights: of a margin head, [C, D] or [C, K, D]: the scores are `jaxnets.losses.cosines`, without the margin.
        None for a network whose outputs are scores already.
      scale: multiplies the cosines. With training's s, a softmax of the scores gives training's probabilities.

    Raises:
      ValueError: for weights that are not finite, with the name of the first array of them, and for a state's params.
    """
    forward, weights = _forward(model), _float32(variables)
    if class_weights is None:
        return Program(forward, weights, image_shape, "scores")
    unit = scale * directions(jnp.asarray(class_weights, jnp.float32))
    _check_finite("class weights", unit)
    num_classes, *subcenters, dimensions = unit.shape

    def cosines(weights: Weights, images: UInt8[Array, "N H W channels"]) -> Float[Array, "N C"]:
        to_each = directions_by_division(forward(weights, images)) @ weights["unit"].T
        # `losses.cosines` looks up the first of equal maxima instead, for the gradient's sake.
        return to_each.reshape(to_each.shape[0], num_classes, -1).max(axis=2) if subcenters else to_each

    return Program(cosines, {**weights, "unit": unit.reshape(-1, dimensions)}, image_shape, "scores")


def _forward(model: "nn.Module") -> Callable[[Weights, UInt8[Array, "N H W channels"]], Float[Array, "N D"]]:
    def forward(weights: Weights, images: UInt8[Array, "N H W channels"]) -> Float[Array, "N D"]:
        variables = {name: weights[name] for name in ("params", "batch_stats")}
        return model.apply(variables, as_floats(images, variables["params"]), train=False)

    return forward


def _float32(variables: Mapping[str, Any]) -> Weights:
    if set(variables["params"]) == {"net", "head"}:
        raise ValueError("variables hold the parameters of a whole state: give {'params': state.params['net'], …}")
    kept = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), kept)
    for path, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]:
        _check_finite(f"weights {jax.tree_util.keystr(path, simple=True, separator='/')}", leaf)
    return weights


def _check_finite(name: str, array: Float[Array, "..."]) -> None:
    if not jnp.isfinite(array).all():
        raise ValueError(f"the {name} hold numbers that are not finite: what they compute is not worth a file")
