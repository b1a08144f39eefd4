"""Chooses the implementation for a shape; nothing else does.

`pallas_gpu` and `pallas_tpu` are never chosen, only named: tests interpret and compile them, but neither has run on its
own device yet.
"""

import math

from kernels.platform import is_cpu

# The most logits to hold at once: 256 MiB in float32. `chunked` computes the cosines again for the gradients, and takes
# up to 1.4 times as long. Measured on a CPU only (`experiments.bench head`).
FEW_LOGITS = 2**26


def preferred(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> str:
    """The name of the implementation for N embeddings and class weights [C, D] or [C, K, D]."""
    return "reference" if num_embeddings * math.prod(class_weights_shape[:-1]) <= FEW_LOGITS else "chunked"


def chunk_size(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> int:
    """The number of classes that `chunked` takes at once, of class weights [C, K, D]; a multiple of 128.

    On a CPU a chunk is small enough to stay in the caches from one pass to the next. However few the rows, the copy of
    a chunk's class weights takes no more memory than the bound on its cosines.
    """
    _, num_centers, length = class_weights_shape
    cosines, weights = (2**20, 2**20) if is_cpu() else (2**22, 2**24)
    size = min(cosines // max(num_embeddings * num_centers, 1), weights // max(num_centers * length, 1))
    return max(size // 128 * 128, 128)
