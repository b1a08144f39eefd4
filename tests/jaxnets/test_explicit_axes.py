"""Calls outside of a step, of arrays that lie over a mesh of Explicit axes, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxnets import ArcFace, MarginHead
from jaxnets.margins import CurricularFace
from jaxnets.subcenters import dominant_centers

N, C, K, D = 8, 12, 3, 4


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("classes", [jax.P(), jax.P("data")], ids=["replicated", "split"])
def test_predictions_centers_and_statistics(classes):
    """Labels give class 0 three rows and class 1 two; a row of label −1 does not count."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(N, D)).astype(np.float32), rng.normal(size=(C, K, D)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 5, -1, 11], np.int32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    rows, of_classes = jax.NamedSharding(mesh, jax.P("data")), jax.NamedSharding(mesh, classes)
    on_mesh = jax.device_put(x, rows), jax.device_put(w, of_classes), jax.device_put(labels, rows)

    cosines = np.einsum("nd,ckd->nck", *(unit(vectors.astype(np.float64)) for vectors in (x, w)))
    head, margin = MarginHead(C, ArcFace(), 8.0, num_subcenters=K), CurricularFace()
    # Outside of jit all is compiled piece by piece: once is enough.
    ways = [jax.jit] if classes else [jax.jit, lambda function: function]
    for way in ways:
        predictions = way(lambda x, w: head.predict({"class_weights": w}, x))(*on_mesh[:2])
        assert predictions.sharding.spec[0] == "data"
        np.testing.assert_array_equal(predictions, cosines.max(axis=2).argmax(axis=1))

    votes = np.zeros((C, K), int)
    for row in np.flatnonzero(labels >= 0):
        votes[labels[row], cosines[row, labels[row]].argmax()] += 1
    want = w[np.arange(C), votes.argmax(axis=1)]
    for way in ways:
        centers = way(dominant_centers)(*on_mesh)
        assert centers.sharding.spec[0] == (classes[0] if classes else None)
        np.testing.assert_array_equal(centers, want)

    single = jax.device_put(w[:, 0], of_classes)
    t = jax.jit(lambda x, w, labels: margin.update({"t": jnp.float32(0.5)}, x, w, labels)["t"])(
        on_mesh[0], single, on_mesh[2]
    )
    of_targets = [cosines[row, labels[row], 0] for row in np.flatnonzero(labels >= 0)]
    np.testing.assert_allclose(t, 0.99 * 0.5 + 0.01 * np.mean(of_targets), rtol=1e-6)
