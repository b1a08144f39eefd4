"""Which implementation serves which shape: the one place.

`pallas_gpu` and `pallas_tpu` have to be named: they are interpreted and compiled in tests, and neither has been run on
the device it is for yet.
"""

import math

from kernels.platform import is_cpu

# Up to so many, 256 MiB in float32, logits fit well enough; beyond they are a burden. Measured on a CPU alone, where
# `chunked`, which makes the cosines twice for the gradients, takes up to 1.4 times as long (`experiments.bench head`).
FEW_LOGITS = 2**26


def preferred(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> str:
    """The name of the implementation for N embeddings and class weights [C, D] or [C, K, D]."""
    return "reference" if num_embeddings * math.prod(class_weights_shape[:-1]) <= FEW_LOGITS else "chunked"


def chunk_size(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> int:
    """How many classes `chunked` takes at once, of class weights [C, K, D], whole multiples of 128.

    On a CPU so few that a chunk stays in its caches from one pass to the next; and never so many, however few the rows,
    that the copies of their weights outweigh the cosines.
    """
    _, num_centers, length = class_weights_shape
    cosines, weights = (2**20, 2**20) if is_cpu() else (2**22, 2**24)
    size = min(cosines // max(num_embeddings * num_centers, 1), weights // max(num_centers * length, 1))
    return max(size // 128 * 128, 128)
