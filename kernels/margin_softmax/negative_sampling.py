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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from kernels.varying import vary_alike, varying_like


class Drawn(NamedTuple):
    """The classes that a device compares rows with, out of its c.

    Attributes:
      rows: their indices, in increasing order; c in the places that are left.
      place: of each class its place in `rows`; of a class that was not drawn any number.
    """

    rows: Int[Array, "m"]
    place: Int[Array, "c"]

    def of(self, whole: Shaped[Array, "c ..."]) -> Shaped[Array, "m ..."]:
        """The rows of an array that has one for each class; the places that are left hold any row."""
        return whole.at[self.rows].get(mode="clip")

    def put(self, whole: Shaped[Array, "c ..."], part: Shaped[Array, "m ..."]) -> Shaped[Array, "c ..."]:
        """`whole` with these rows replaced."""
        return whole.at[self.rows].set(part, mode="drop")

    @property
    def num_drawn(self) -> Int[Array, ""]:
        return (self.rows < len(self.place)).sum(dtype=jnp.int32)


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
) -> Drawn:
    """Draws from c = `num_here` classes.

    Args:
      own: the classes of the rows, in [0, c), all of which are drawn; −1 for none.
      counted: classes from here on are padding.
      first: the number of this device's first class.

    Raises:
      ValueError: for a share outside of (0, 1], and for one of share and key without the other.
    """
    if key is None or sample is None:
        raise ValueError("negative sampling takes a share and a key: give both sample and key, or neither")
    if not 0 < sample <= 1:
        raise ValueError(f"sample is the share of classes to keep, in (0, 1], not {sample}")
    size, classes = room(sample, len(own), num_here), jnp.arange(num_here, dtype=jnp.int32)
    number = jax.vmap(lambda number: jax.random.uniform(jax.random.fold_in(key, number), (), jnp.float32))
    is_other = (classes < counted) & (number(first + classes) < sample)
    classes, is_other, own = vary_alike(classes, is_other, own)
    is_own = jnp.zeros_like(is_other).at[jnp.where(own < 0, num_here, own)].set(True, mode="drop")
    is_other &= ~is_own
    has_room = jnp.cumsum(is_other, dtype=jnp.int32) <= size - is_own.sum(dtype=jnp.int32)
    is_drawn = is_own | (is_other & has_room)
    place = jnp.cumsum(is_drawn, dtype=jnp.int32) - 1
    rows = varying_like(jnp.full(size, num_here, jnp.int32), own)
    return Drawn(rows.at[jnp.where(is_drawn, place, size)].set(classes, mode="drop"), place)
