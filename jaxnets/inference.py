"""The step of evaluation."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxnets.data import Split
from jaxnets.explicit_axes import between_auto_axes, of_rows
from jaxnets.labels import as_labels
from jaxnets.sharded_head import ShardedMarginHead
from jaxnets.train import TrainState, as_floats
from kernels.varying import Axes


class Outputs(NamedTuple):
    """The results of a batch in inference: embeddings (or scores), losses and predicted classes."""

    embeddings: Float[Array, "N D"]
    losses: Float[Array, "N"]
    predictions: Int[Array, "N"]


def eval_step(state: TrainState, batch: Split) -> Outputs:
    """Applies the network and the head in inference. The loss includes the margin; predictions do not."""
    if isinstance(state.head, ShardedMarginHead):
        split: Outputs = state.head.over_devices(_eval_step, state.replace(opt_state=()), batch, lambda rows: rows)
        return split
    outputs: Outputs = between_auto_axes(_eval_step, state, batch, out=lambda: of_rows(batch.images))
    return outputs


def _eval_step(state: TrainState, batch: Split, axis_name: Axes | None = None) -> Outputs:
    images, labels = jnp.asarray(batch.images), as_labels(batch.labels)
    params, batch_stats = state.for_inference()
    outputs = state.model.apply(
        {"params": params["net"], "batch_stats": batch_stats}, as_floats(images, params), train=False
    )
    head = params["head"]
    losses = state.head.loss(state.head_stats, head, outputs, labels)
    return Outputs(outputs, losses, state.head.predict(head, outputs))
