"""The optimisers of a recipe: warm-up and cosine, weight decay that spares vectors, clipped gradients."""

from typing import Any

import jax
import optax

from experiments.recognition.config import OptimizerOptions
from jaxnets import optim
from jaxnets.optim import Schedule

MOMENTUM = 0.9  # of --optimizer sgd
LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}


def build_schedule(options: OptimizerOptions, epochs: int, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step: up on a straight line, and down to zero as a cosine."""
    highest = LEARNING_RATES[options.optimizer] if options.lr is None else options.lr
    rising = round(options.warmup * steps_per_epoch)
    if rising == 0:
        return optim.counted_in_floats(optax.cosine_decay_schedule(highest, epochs * steps_per_epoch))
    return optim.counted_in_floats(
        optax.warmup_cosine_decay_schedule(highest / rising, highest, rising, epochs * steps_per_epoch)
    )


def build_optimizers(
    options: OptimizerOptions, schedule: Schedule
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The network's optimiser, with its gradient clipped, and the head's, without, as in arcface_torch."""
    if options.optimizer == "adamw":
        rule = optax.adamw(schedule, weight_decay=options.weight_decay, mask=is_matrix)
    else:
        decay = optax.add_decayed_weights(options.weight_decay, mask=is_matrix)
        rule = optax.chain(decay, optim.sgd(schedule, MOMENTUM))
    return (optax.chain(optax.clip_by_global_norm(options.clip), rule) if options.clip else rule), rule


def is_matrix(params: Any) -> Any:
    """Which parameters decay: kernels and class weights, and no biases, scales and slopes, which are vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
