"""Retrieval and verification against pytorch-metric-learning and scikit-learn: kept in a fixture, and run live."""

from pathlib import Path

import numpy as np
import pytest

from jaxnets.recognition import retrieval, verification

FIXTURES = Path(__file__).parents[2] / "fixtures"
EQUAL = 1e-6


@pytest.fixture(scope="module")
def maker():
    from tests.fixtures import make_recognition_peers

    return make_recognition_peers


@pytest.fixture(scope="module")
def kept():
    with np.load(FIXTURES / "recognition_peers.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def ours(maker, kept):
    alone = retrieval(kept["x"], kept["labels"], ranks=maker.RANKS, bootstrap=None)
    gallery = {"gallery": kept["x"], "gallery_labels": kept["labels"]}
    queries = retrieval(kept["queries"], kept["query_labels"], **gallery, ranks=maker.RANKS, bootstrap=None)
    pairs = verification(kept["x"], kept["labels"], bootstrap=None)
    roc = {"far": pairs.roc.far, "tar": pairs.roc.tar, "thresholds": pairs.roc.thresholds, "auc": pairs.auc}
    named = {"alone": alone.figures(), "queries": queries.figures()}
    return {f"{kind}/{name}": value for kind, of in named.items() for name, value in of.items()} | roc


def test_the_fixture(ours, kept):
    expected = [name for name in kept if name not in ("x", "labels", "queries", "query_labels")]
    assert len(expected) == 16
    for name in expected:
        np.testing.assert_allclose(ours[name], kept[name], atol=EQUAL, err_msg=name)


def test_pytorch_metric_learning(ours, kept, maker):
    pytest.importorskip("torch")
    pytest.importorskip("faiss")
    pytest.importorskip("pytorch_metric_learning")
    for name, value in maker.metric_learning(kept).items():
        np.testing.assert_allclose(ours[name], value, atol=EQUAL, err_msg=name)


def test_scikit_learn(ours, kept, maker):
    pytest.importorskip("sklearn")
    for name, value in maker.scikit_learn(kept).items():
        np.testing.assert_allclose(ours[name], value, atol=EQUAL, err_msg=name)
