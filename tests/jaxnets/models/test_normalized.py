"""Networks whose inputs or embeddings are normalised, against the definitions."""

import jax
import numpy as np

from jaxnets import create
from jaxnets.models.embedding_norm import EmbeddingNorm, folded
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


def test_embeddings_end_in_a_batch_norm_of_scale_1():
    rng = np.random.default_rng(0)
    images = rng.random((8, 16, 16, 3), np.float32)
    network = create("mynn", 3)
    whole = EmbeddingNorm(network)
    variables = jax.jit(lambda images: whole.init(jax.random.key(0), images))(images)
    shift, mean, var = (rng.uniform(0.5, 2, 3).astype(np.float32) for _ in range(3))
    params = {**variables["params"], "embedding_norm": {"bias": shift}}
    variables = {"params": params, "batch_stats": {"embedding_norm": {"mean": mean, "var": var}}}
    own = {name: leaves for name, leaves in params.items() if name != "embedding_norm"}
    apply = jax.jit(network.apply)
    plain = np.asarray(apply({"params": own}, images), np.float64)
    expected = (plain - mean) / np.sqrt(var + 1e-5) + shift
    np.testing.assert_allclose(jax.jit(whole.apply)(variables, images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(folded(variables, "model1_8"), images), expected, rtol=1e-5, atol=1e-5)
    in_training = jax.jit(lambda v, x: whole.apply(v, x, train=True, mutable=["batch_stats"]))
    trained, updated = in_training(variables, images)
    expected = (plain - plain.mean(axis=0)) / np.sqrt(plain.var(axis=0) + 1e-5) + shift
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-4)
    moved = updated["batch_stats"]["embedding_norm"]["var"]
    np.testing.assert_allclose(moved, 0.9 * var + 0.1 * plain.var(axis=0, ddof=1), rtol=1e-5)
