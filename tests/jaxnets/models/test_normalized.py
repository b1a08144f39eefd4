"""Networks whose inputs are normalised, against the definition."""

import jax
import numpy as np

from jaxnets import create
from jaxnets.models.normalized import Normalized


def test_it_is_the_network_of_normalised_images_and_has_its_variables():
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    network = create("mynn", 3)
    init = jax.jit(lambda images: network.init(jax.random.key(0), images))
    variables = init(images)
    whole = Normalized(network)
    wrapped = jax.jit(lambda images: whole.init(jax.random.key(0), images))(images)
    jax.tree.map(np.testing.assert_array_equal, wrapped, variables)
    # torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    normalised = np.stack(
        [(images[..., 0] - 0.485) / 0.229, (images[..., 1] - 0.456) / 0.224, (images[..., 2] - 0.406) / 0.225], axis=3
    )
    expected = jax.jit(network.apply)(variables, normalised.astype(np.float32))
    np.testing.assert_allclose(jax.jit(whole.apply)(variables, images), expected, rtol=1e-5, atol=1e-6)
