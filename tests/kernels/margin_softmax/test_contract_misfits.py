"""What every implementation refuses, in the same sentence."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.margins import NormFace
from kernels.margin_softmax import HardNegatives, margin_softmax
from tests.kernels.margin_softmax.test_contract_inputs import problem


def test_misfits_are_refused(implementation):
    x, w, labels = problem((4, 3, 5))
    good = {"margin": NormFace(), "scale": 1.0, "implementation": implementation}

    def refused(match, x=x, w=w, labels=labels, **options):
        with pytest.raises(ValueError, match=match):
            margin_softmax(x, w, labels, **good | options)

    refused(r"share their last dimension D: embeddings \(4, 2\), class_weights \(5, 3\)", x[:, :2])
    refused(r"labels must be \[N\], .* embeddings \(4, 3\), labels \(3,\)", labels=labels[:3])
    refused(r"embeddings must be \[N, D\]", x[0])
    refused(r"none of these 0: .* class_weights \(0, 3\)", w=w[:0])
    refused(r"class_weights \[C, D\] or \[C, K, D\].* class_weights \(5, 1, 1, 3\)", w=w[:, None, None])
    refused(r"D: embeddings \(4, 3\), class_weights \(5, 3, 1\)", w=w[:, :, None])
    refused("margin_grad is exact or straight_through, not 'none'", margin_grad="none")
    hard_negatives = HardNegatives(jnp.zeros(4), NormFace())
    refused(r"hard_negatives has one t for all rows, not \(4,\)", hard_negatives=hard_negatives)
    refused("labels must be integers, not float32", labels=labels.astype(np.float32))
    refused("embeddings must be floating point, not int32", x.astype(np.int32))
    refused("no implementation 'fast'", implementation="fast")
    for scale in (0, -1.0, np.nan, np.inf, [1.0, 2.0]):
        refused("scale must be one finite number above 0 for all rows, not", scale=scale)
