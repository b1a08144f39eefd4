"""Predictions without the logits of all classes."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from kernels.margin_softmax import choice
from kernels.margin_softmax.checks import Like, checked_vectors
from kernels.margin_softmax.geometry import cosines, directions, wide
from kernels.varying import vary_alike, varying_like


def nearest_classes(embeddings: Like, class_weights: Like) -> Int[Array, "N"]:
    """The class nearest in angle to each embedding, int32: the argmax of the cosines, the first of equal ones.

    Where the N × C cosines are many, they are computed in chunks of classes, N × chunk numbers at a time. With K
    sub-centres a class is as near as its nearest one. Usable under jit, vmap and shard_map; it has no gradient.

    Args:
      embeddings: [N, D], of any length.
      class_weights: [C, D], or [C, K, D].

    Raises:
      ValueError: for arrays whose shapes or dtypes do not fit.
    """
    return nearest_cosines(embeddings, class_weights)[1]


def nearest_cosines(
    embeddings: Like, class_weights: Like, num_classes: Int[Array, ""] | None = None
) -> tuple[Float[Array, "N"], Int[Array, "N"]]:
    """The cosine of `nearest_classes`, and the class; of the first `num_classes` alone, −∞ where these are none.

    With `num_classes`, as of classes split over devices, the cosines are always computed in chunks, as the losses are.
    """
    x, w = (lax.stop_gradient(array) for array in vary_alike(*checked_vectors(embeddings, class_weights)))
    dtype = wide(x.dtype, w.dtype)
    x = directions(x.astype(dtype))

    def to_classes(w: Float[Array, "c D"] | Float[Array, "c K D"], first: Array | int) -> Float[Array, "N c"]:
        found = cosines(x, directions(w.astype(dtype)))
        if num_classes is None:
            return found
        return jnp.where(first + jnp.arange(len(w), dtype=jnp.int32) < num_classes, found, -jnp.inf)

    def nearest_of(found: Float[Array, "N c"]) -> tuple[Float[Array, "N"], Int[Array, "N"]]:
        nearest = found.argmax(axis=1)
        return jnp.take_along_axis(found, nearest[:, None], axis=1)[:, 0], nearest.astype(jnp.int32)

    if num_classes is None and choice.preferred(len(x), w.shape) == "reference":
        return nearest_of(to_classes(w, 0))
    shape = w.shape if w.ndim == 3 else (w.shape[0], 1, w.shape[1])
    size = min(choice.chunk_size(len(x), shape), len(w))

    def take(first: Array | int, size: int, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        largest, nearest = so_far
        # Or XLA would normalise all of w at once, outside of the loop.
        chunk = lax.optimization_barrier(lax.dynamic_slice_in_dim(w, first, size))
        cosine, here = nearest_of(to_classes(chunk, first))
        is_nearer = cosine > largest
        return jnp.where(is_nearer, cosine, largest), jnp.where(is_nearer, here + first, nearest)

    whole, rest = divmod(len(w), size)
    start = varying_like(jnp.full(len(x), -jnp.inf, dtype), x), varying_like(jnp.zeros(len(x), jnp.int32), x)
    so_far = lax.fori_loop(0, whole, lambda i, so_far: take(i * size, size, so_far), start)
    return take(whole * size, rest, so_far) if rest else so_far
