"""Predictions in chunks are the argmax of all cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, MarginHead
from kernels.margin_softmax import choice, nearest_classes


@pytest.mark.parametrize("num_centers", [0, 3])
def test_in_chunks_as_at_once(monkeypatch, num_centers):
    """Against float64; chunks of 128 and a rest. Of equal classes the first is taken, wherever the chunks' ends are."""
    rng = np.random.default_rng(0)
    shape = (300, num_centers, 5) if num_centers else (300, 5)
    x, w = rng.normal(size=(20, 5)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    w[[200, 299]] = w[[7, 130]]
    x[:2] = w[[200, 299]].reshape(2, -1, 5)[:, 0] * np.float32([[1e-30], [1e30]])
    unit = w.astype(np.float64) / np.linalg.norm(w, axis=-1, keepdims=True)
    cosines = (x.astype(np.float64) @ unit.reshape(-1, 5).T).reshape(20, 300, -1).max(axis=2)
    wanted = cosines.argmax(axis=1)
    assert wanted[:2].tolist() == [7, 130]
    at_once = jax.jit(nearest_classes)(x, w)
    monkeypatch.setattr(choice, "FEW_LOGITS", 0)
    monkeypatch.setattr(choice, "chunk_size", lambda *_: 128)
    in_chunks = jax.jit(jax.vmap(nearest_classes, (0, None)))(x.reshape(2, 10, 5), w).reshape(20)
    assert at_once.dtype == in_chunks.dtype == jnp.int32
    np.testing.assert_array_equal(at_once, wanted)
    np.testing.assert_array_equal(in_chunks, wanted)


def test_no_more_than_a_chunk_of_cosines_is_held():
    """Of a million classes and 512 embeddings all cosines would take 2 GB; in the loss, gradients and accuracy."""
    head = MarginHead(10**6, ArcFace(), 64.0)

    def step(params, x, labels):
        loss, gradients = jax.value_and_grad(lambda params, x: head.loss({}, params, x, labels).mean(), (0, 1))(
            params, x
        )
        return loss, gradients, (head.predict(params, x) == labels).sum()

    params = {"class_weights": jax.ShapeDtypeStruct((10**6, 16), jnp.float32)}
    shapes = params, jax.ShapeDtypeStruct((512, 16), jnp.float32), jax.ShapeDtypeStruct((512,), jnp.int32)
    memory = jax.jit(step).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 32 * 2**20


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="share their last dimension D"):
        nearest_classes(jnp.ones((2, 3)), jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="embeddings must be floating point, not int32"):
        nearest_classes([[1, 2]], jnp.ones((4, 2)))
