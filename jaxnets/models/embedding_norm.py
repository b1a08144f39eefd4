"""Networks whose embeddings end in a BatchNorm."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxnets.models.layers import BatchNorm
from kernels.norm_act_pool.reference import EPSILON
from kernels.varying import Axes

NAME = "embedding_norm"  # of the submodule


class EmbeddingNorm(nn.Module):
    """A network with a BatchNorm after its embeddings, whose scale is 1 for good.

    ArcFace's backbones end so: Deng et al. 2019, arXiv:1801.07698, section 3.2 ("BN-Dropout-FC-BN"); the scale is fixed
    in the authors' code. The network's own variables are joined by `embedding_norm`'s: a bias, a mean, a variance.
    """

    network: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.network)

    @nn.compact
    def __call__(
        self, images: Float[ArrayLike, "N H W C"], *, train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        embeddings = self.network(jnp.asarray(images), train=train, axis_name=axis_name)
        norm = BatchNorm(train, axis_name, use_scale=False, name=NAME)
        normalised: Float[Array, "N D"] = norm(embeddings[:, None, None, :])[:, 0, 0, :]
        return normalised


def folded(variables: Mapping[str, Any], layer: str) -> dict[str, dict[str, Any]]:
    """The variables of the network alone that make the same embeddings in inference; `layer` is its last one.

    The layer is linear, with a kernel [..., D] and a bias [D], whose y becomes (y − mean) / √(var + ε) + shift.
    """
    params, batch_stats = dict(variables["params"]), dict(variables["batch_stats"])
    own, running, last = params.pop(NAME), batch_stats.pop(NAME), params[layer]
    shift, mean, var, kernel, bias = map(
        np.asarray, (own["bias"], running["mean"], running["var"], last["kernel"], last["bias"])
    )
    factor = 1 / np.sqrt(var + np.float32(EPSILON))
    params[layer] = {"kernel": kernel * factor, "bias": (bias - mean) * factor + shift}
    return {"params": params, "batch_stats": batch_stats}
