"""Images whose labels were flipped by design are found by the sub-centres of a head that was trained on them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, margin_softmax_loss
from jaxnets.subcenters import lie_at_dominant

C, K, D, N = 5, 3, 16, 500


@pytest.fixture(scope="module")
def noisy():
    """Embeddings around a direction for each class, labels of which a fifth are another class, and a trained head."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(D, D)))[0][:C]
    true = rng.integers(0, C, N)
    embeddings = (directions[true] + 0.1 * rng.normal(size=(N, D))).astype(np.float32)
    is_flipped = rng.random(N) < 0.2
    labels = np.where(is_flipped, (true + rng.integers(1, C, N)) % C, true).astype(np.int32)

    def mean_loss(w):
        return margin_softmax_loss(embeddings, w, labels, margin=ArcFace(0.3), scale=16.0).mean()

    @jax.jit
    def trained(w):
        return jax.lax.fori_loop(0, 200, lambda _, w: w - jax.grad(mean_loss)(w), w)

    w = trained(jnp.asarray(rng.normal(size=(C, K, D)), jnp.float32))
    return embeddings, np.asarray(w), labels, is_flipped


@jax.jit
def lie(embeddings, w, labels, max_angle):
    return lie_at_dominant(embeddings, w, labels, max_angle=max_angle)


def unit(vectors):
    return vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)


@pytest.mark.parametrize(("degrees", "missed"), [(180.0, 0.25), (75.0, 0.1)])
def test_flipped_labels_are_found(noisy, degrees, missed):
    """Three quarters of them, by the angle too nine tenths, and no other image is dropped; as in float64."""
    embeddings, w, labels, is_flipped = noisy
    keeps = np.asarray(lie(embeddings, w, labels, math.radians(degrees)))
    assert keeps[is_flipped].mean() < missed
    assert keeps[~is_flipped].all()
    cosines = np.einsum("nd,nkd->nk", unit(embeddings), unit(w)[labels])
    nearest = cosines.argmax(axis=1)
    dominant = np.array([np.bincount(nearest[labels == label], minlength=K).argmax() for label in range(C)])
    angles = np.degrees(np.arccos(cosines[np.arange(N), dominant[labels]]))
    np.testing.assert_array_equal(keeps, (nearest == dominant[labels]) & (angles <= degrees))


def test_far_images_rows_without_a_class_and_misuse():
    """Of one class whose first sub-centre is dominant: at 0° and 60° from it, at its other one, and without a label."""
    w = np.float32([[[1, 0], [0, -1]], [[0, 1], [0, 1]]])
    x, labels = np.float32([[2, 0], [1, math.sqrt(3)], [0, -3], [math.nan, 0]]), np.int32([0, 0, 0, -1])
    for degrees, keeps in ((61, [True, True, False, False]), (59, [True, False, False, False])):
        lie = lie_at_dominant(x, w, labels, max_angle=math.radians(degrees))
        np.testing.assert_array_equal(lie, keeps)
    with pytest.raises(
        ValueError, match=r"max_angle must be in \[0, π\] radians, not 75; 75 degrees are 1.3090 radians"
    ):
        lie_at_dominant(x, w, labels, max_angle=75)
    with pytest.raises(ValueError, match=r"label 2 of row 3 is no class"):
        lie_at_dominant(x, w, np.int32([0, 0, 0, 2]))
