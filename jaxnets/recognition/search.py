"""The nearest of a gallery."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from jaxnets.recognition.blocks.nearest import neighbours
from jaxnets.recognition.inputs import Matrix, checked_embeddings, checked_gallery


def nearest(
    queries: Matrix, gallery: Matrix, k: int, *, mesh: Mesh | None = None
) -> tuple[Float32[np.ndarray, "Q k"], Int32[np.ndarray, "Q k"]]:
    """The k embeddings of a gallery with the largest cosines with each query, exactly; equal ones in any order.

    Beyond its arguments and results it takes some hundred MiB, whatever the number of queries and the gallery's size; a
    memory-mapped gallery is read block by block.

    Args:
      queries: [Q, D], of any length.
      gallery: [M, D].
      k: 1 … M.
      mesh: devices to share the queries.

    Returns:
      The cosines, descending, and the rows of the gallery.

    Raises:
      ValueError: the input does not fit, has numbers that are not finite, or vectors of zeros; k is out of range.
    """
    rows = checked_embeddings("queries", queries)
    others = checked_gallery("gallery", gallery, rows, "queries")
    if not 1 <= k <= len(others):
        raise ValueError(f"k must lie in 1..{len(others)}, the size of the gallery; got {k}")
    found = list(neighbours(rows, others, k, mesh=mesh))
    return np.concatenate([part.keys for part in found]), np.concatenate([part.indices for part in found])
