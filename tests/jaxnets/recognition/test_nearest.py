import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.recognition import nearest
from jaxnets.recognition.blocks import nearest as blocks
from jaxnets.recognition.blocks.rows import unit


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """Five blocks of queries by three of a gallery, whose last ones are not full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_GALLERY_BLOCK", 128)
        patch.setattr(blocks, "_PRODUCTS", 16 * 140)
        yield


def of_length_1(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# Two of 128 columns are found in two steps, seventy in one, and two hundred are more than a block has.
@pytest.mark.parametrize("k", [2, 70, 200])
def test_the_nearest_are_those_of_float64(k):
    rng = np.random.default_rng(0)
    queries, gallery = (rng.normal(size=(n, 5)).astype(np.float32) for n in (70, 300))
    scores = of_length_1(queries) @ of_length_1(gallery).T
    found, indices = nearest(queries, gallery, k)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :k], atol=5e-7)
    np.testing.assert_allclose(np.take_along_axis(scores, indices.astype(int), axis=1), found, atol=5e-7)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_one_query_in_a_gallery_of_one():
    found, indices = nearest(np.array([[3, 4]]), np.array([[4, 3]]), 1)
    np.testing.assert_allclose(found, [[24 / 25]], atol=1e-6)
    assert indices.tolist() == [[0]]


def test_what_fills_up_a_block_is_no_neighbour():
    # Zeros would be nearer than these.
    found, _ = nearest(np.ones((70, 5)), -np.ones((300, 5)), 200)
    np.testing.assert_allclose(found, -1, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 3, 512])
def test_unit_lengths(dim):
    rows = np.random.default_rng(0).normal(size=(50, dim)).astype(np.float32)
    rows *= np.array([1e-30, 1, 1e30], np.float32)[np.arange(50) % 3, None]
    np.testing.assert_allclose(jax.jit(unit)(rows), of_length_1(rows), rtol=3e-7)


def test_inputs_of_several_kinds_are_one():
    rng = np.random.default_rng(1)
    queries, gallery = rng.integers(-9, 9, (70, 5)), rng.integers(1, 9, (300, 5))
    queries[:, 0] = 10
    expected, _ = nearest(queries, gallery, 2)
    for kind in (np.float64, np.float16, jnp.bfloat16):
        found, _ = nearest(queries.astype(kind), gallery.astype(kind), 2)
        np.testing.assert_array_equal(found, expected)
    found, _ = nearest(jnp.asarray(queries, jnp.bfloat16), jnp.asarray(gallery, jnp.int8), 2)
    np.testing.assert_array_equal(found, expected)


def test_a_gallery_may_be_a_file(tmp_path):
    rng = np.random.default_rng(2)
    queries, gallery = (rng.normal(size=(n, 5)).astype(np.float32) for n in (70, 300))
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    np.testing.assert_array_equal(nearest(queries, mapped, 2), nearest(queries, gallery, 2))
