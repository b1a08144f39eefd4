"""Which implementation serves which shape: the one place.

`pallas_gpu` has to be named: it is interpreted and compiled in tests, and has not been run on a GPU yet.
"""

import math

# Up to so many, 256 MiB in float32, logits fit well enough; `chunked` makes them twice, and beyond they are a burden.
FEW_LOGITS = 2**26


def preferred(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> str:
    """The name of the implementation for N embeddings and class weights [C, D] or [C, K, D]."""
    return "reference" if num_embeddings * math.prod(class_weights_shape[:-1]) <= FEW_LOGITS else "chunked"
