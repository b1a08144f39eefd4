"""Templates: one embedding for all examples of an identity."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from jaxnets.recognition.blocks.rows import Rows, block, power_of_two, unit

_BLOCK = 16_384


def mean_templates(
    rows: Rows, labels: Int32[np.ndarray, "N"], identities: int
) -> tuple[Float[jax.Array, "C D"], int | None]:
    """The mean of each identity's unit embeddings, and the first identity whose mean vanishes, if there is one."""
    size = min(_BLOCK, power_of_two(len(rows)))
    sums = np.zeros((identities + 1, rows.shape[1]), np.float32)  # the last takes the rows that fill up a block
    for start in range(0, len(rows), size):
        codes = np.full(size, identities, np.int32)
        part = labels[start : start + size]
        codes[: len(part)] = part
        sums = _add(sums, block(rows, start, size), codes)
    means, vanishes = _means(sums, np.bincount(labels, minlength=identities + 1).astype(np.float32))
    first = int(np.argmax(vanishes))
    return means[:identities], first if vanishes[first] and first < identities else None


@jax.jit
def _add(sums: Float[jax.Array, "C D"], rows: Float[jax.Array, "B D"], codes: Int32[jax.Array, "B"]) -> jax.Array:
    return sums.at[codes].add(unit(rows))


@jax.jit
def _means(
    sums: Float[jax.Array, "C D"], counts: Float[jax.Array, "C"]
) -> tuple[Float[jax.Array, "C D"], Bool[jax.Array, "C"]]:
    means = sums / jnp.maximum(counts, 1)[:, None]
    # The sum of opposite embeddings is nothing but rounding errors.
    return means, jnp.max(jnp.abs(means), axis=1) < jnp.finfo(jnp.float32).eps
