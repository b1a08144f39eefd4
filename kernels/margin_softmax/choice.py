"""Which implementation serves which shape: the one place."""

import math

FEW_LOGITS = 2**20  # Up to so many, 4 MiB in float32, logits are no burden, and the definition is the fastest there is.


def preferred(num_embeddings: int, class_weights_shape: tuple[int, ...]) -> str:
    """The name of an implementation; class weights are [C, D] or [C, K, D]."""
    return "reference" if num_embeddings * math.prod(class_weights_shape[:-1]) <= FEW_LOGITS else "chunked"
