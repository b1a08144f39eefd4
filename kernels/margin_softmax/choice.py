"""Which implementation serves which shape: the one place.

`pallas_gpu` and `pallas_tpu` have to be named: they are interpreted and compiled in tests, and neither has been run on
the device it is for yet.
"""

import math

from kernels.platform import is_cpu

# Up to so many, 256 MiB in float32, logits fit well enough; `chunked` makes them twice, and beyond they are a burden.
FEW_LOGITS = 2**26


def preferred(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> str:
    """The name of the implementation for N embeddings and class weights [C, D] or [C, K, D]."""
    return "reference" if num_embeddings * math.prod(class_weights_shape[:-1]) <= FEW_LOGITS else "chunked"


def cosines_at_once() -> int:
    """How many `chunked` holds: on a CPU so few that a chunk stays in its caches from one pass to the next."""
    return 2**20 if is_cpu() else 2**22
