"""Networks that expect other inputs than [0, 1]."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kernels.varying import Axes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of R, G and B in [0, 1]


class Normalized(nn.Module):
    """A network that is given (images − mean) / std; its variables are the network's own.

    The defaults are ImageNet's, which torchvision's weights expect.
    """

    network: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def setup(self) -> None:
        nn.share_scope(self, self.network)

    def __call__(
        self, images: Float[ArrayLike, "N H W C"], train: bool = False, axis_name: Axes | None = None
    ) -> Float[Array, "N D"]:
        images = jnp.asarray(images)
        mean, std = (jnp.asarray(values, images.dtype).reshape(1, 1, 1, -1) for values in (self.mean, self.std))
        outputs: Float[Array, "N D"] = self.network((images - mean) / std, train=train, axis_name=axis_name)
        return outputs
