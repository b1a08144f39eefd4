"""Of a device's classes, those that a batch needs and some of the others, drawn anew each time.

All classes of the batch's rows are kept, wherever the rows come from, and as many others as make a fixed number, so
that shapes are static: ⌈sample·c⌉ of c, or as many as there are rows if these are more, since each may have a class of
its own. Others are drawn without replacement, all alike. The rest is as if it were not there: the softmax is over fewer
classes, and not corrected for it, so that the loss is lower than that of all classes, and the gradient is biased; class
weights that are not drawn get none.

An et al., Partial FC: Training 10 Million Identities on a Single Machine, 2021, arXiv:2010.05222.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from kernels.varying import vary_alike


def sampled(
    key: Array | None,
    sample: float | None,
    own: Int[Array, "N"],
    num_here: int,
    counted: Int[Array, ""],
    here: Int[Array, ""],
) -> tuple[Int[Array, "m"], Int[Array, "N"]]:
    """The classes drawn of c = `num_here`, and the rows' places among them; −1 stays −1.

    Classes from `counted` on, which are padding, come last. `here` is the device's number along the axis.

    Raises:
      ValueError: for a share outside of (0, 1], and for one of share and key without the other.
    """
    if key is None or sample is None:
        raise ValueError("negative sampling takes a share and a key: give both sample and key, or neither")
    if not 0 < sample <= 1:
        raise ValueError(f"sample is the share of classes to keep, in (0, 1], not {sample}")
    size = min(max(math.ceil(sample * num_here), len(own)), num_here)
    rank = jax.random.uniform(jax.random.fold_in(key, here), (num_here,), jnp.float32)
    rank = jnp.where(jnp.arange(num_here, dtype=jnp.int32) < counted, rank, -1)
    rank, own = vary_alike(rank, own)
    rank = rank.at[jnp.where(own < 0, num_here, own)].set(2, mode="drop")
    _, chosen = lax.top_k(rank, size)
    place, chosen, order = vary_alike(jnp.zeros(num_here, jnp.int32), chosen, jnp.arange(size, dtype=jnp.int32))
    place = place.at[chosen].set(order)
    return chosen, jnp.where(own < 0, -1, place[own])
