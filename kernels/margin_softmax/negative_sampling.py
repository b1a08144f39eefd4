"""Draws some of a device's classes for each batch: all that the batch needs, and a random part of the others.

The classes of the batch's rows are always kept, from whatever device the rows come. Each other class is kept with
probability `sample`, by a random number that depends only on the key and on the number of the class: the split of
classes and rows over devices changes nothing. The softmax runs over the kept classes only, without a correction: its
loss is lower than the loss over all classes, and its gradient is biased. Other class weights get no gradient.

Shapes are static: a device has room for its c classes, or, if that is fewer, for a class of each row and sample·c + 8σ
+ 10 others, with σ² = c·sample·(1 − sample). The probability of drawing more is below 1e-12 (Bernstein's inequality);
the last ones are then left out.

An et al., Partial FC: Training 10 Million Identities on a Single Machine, 2021, arXiv:2010.05222, which keeps a fixed
number of each device's classes instead.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from kernels.varying import vary_alike


def room(sample: float, num_rows: int, num_here: int) -> int:
    """The number of classes that a device of `num_here` has room for."""
    deviation = math.sqrt(num_here * sample * (1 - sample))
    return min(num_here, num_rows + math.ceil(sample * num_here + 8 * deviation + 10))


def sampled(
    key: Array | None,
    sample: float | None,
    own: Int[Array, "N"],
    num_here: int,
    counted: Int[Array, ""],
    first: Int[Array, ""],
) -> tuple[Int[Array, "m"], Int[Array, ""], Int[Array, "c"]]:
    """Draws from c = `num_here` classes: m classes, the number of these that count, and each class's index among them.

    Args:
      own: the classes of the rows, in [0, c), which are drawn first; −1 for none.
      counted: classes from here on are padding.
      first: the number of this device's first class.

    Raises:
      ValueError: for a share outside of (0, 1], and for one of share and key without the other.
    """
    if key is None or sample is None:
        raise ValueError("negative sampling takes a share and a key: give both sample and key, or neither")
    if not 0 < sample <= 1:
        raise ValueError(f"sample is the share of classes to keep, in (0, 1], not {sample}")
    classes = jnp.arange(num_here, dtype=jnp.int32)
    drawn = jax.vmap(lambda number: jax.random.uniform(jax.random.fold_in(key, number), (), jnp.float32))
    number = drawn(first + classes)
    rank = jnp.where((classes < counted) & (number < sample), 1 - number, -1)
    rank, own = vary_alike(rank, own)
    rank = rank.at[jnp.where(own < 0, num_here, own)].set(2, mode="drop")
    largest, chosen = lax.top_k(rank, room(sample, len(own), num_here))
    place, chosen, order = vary_alike(classes, chosen, jnp.arange(len(chosen), dtype=jnp.int32))
    return chosen, (largest > 0).sum(dtype=jnp.int32), place.at[chosen].set(order)
