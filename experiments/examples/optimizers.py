"""optax's own ways with the steps of jaxnets: accumulated gradients, a frozen backbone, rates by layer.

Each returns an optimiser for `net_optimizer` of `jaxnets.create_train_state`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax


def accumulated(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Updates with the mean gradient of so many steps; give it to `head_optimizer` too.

    BatchNorm's statistics are of each step's batch: for the large batch's use `train_step` over devices.
    """
    return optax.MultiSteps(optimizer, steps).gradient_transformation()


def frozen() -> optax.GradientTransformation:
    """Keeps the weights; `create_train_state(…, freeze_batch_stats=True)` keeps BatchNorm's statistics too."""
    return optax.set_to_zero()


def by_layer(
    others: optax.GradientTransformation, layers: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformation:
    """An optimiser of its own for each named layer, such as a smaller rate for a pretrained one; `others` for the rest.

    Args:
      others: of every layer that is not named.
      layers: by a name on the path in `state.params["net"]`, such as "conv1" or "hidden_layer_0".

    Raises:
      ValueError: when the state is made, if the network has no layer of such a name.
    """

    def labels_of(params: Any) -> Any:
        paths = [[key.key for key in path if hasattr(key, "key")] for path, _ in jax.tree.leaves_with_path(params)]
        names = {name for path in paths for name in path}
        unknown = sorted(layers.keys() - names)
        if unknown:
            raise ValueError(f"the network has no layer {unknown[0]!r}; there is {', '.join(sorted(names))}")
        own = [next((name for name in path if name in layers), "") for path in paths]
        return jax.tree.unflatten(jax.tree.structure(params), own)

    return optax.partition({"": others, **layers}, labels_of)
