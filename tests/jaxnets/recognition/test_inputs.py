import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.recognition import Bootstrap, identification, nearest, retrieval, verification

X, Y = np.random.default_rng(0).normal(size=(16, 3)), np.arange(16) % 4


def with_row(row, value):
    x = X.copy()
    x[row] = value
    return x


WRONG = [
    (lambda: retrieval(X[0], Y), r"embeddings must be \[N, D\].*shape is \[3\]"),
    (lambda: retrieval(X[:0], Y[:0]), r"shape is \[0, 3\]"),
    (lambda: retrieval(X.astype(complex), Y), "must be real numbers, not complex128"),
    (lambda: retrieval(np.full((16, 3), "x"), Y), "must be real numbers, not <U1"),
    (lambda: retrieval(with_row(5, [1, np.nan, 0]), Y), "embeddings: row 5 has a number that is not finite"),
    (lambda: retrieval(with_row(6, [1, 1e60, 0]), Y), "row 6 has a number that is not finite in float32"),
    (lambda: verification(with_row(7, 0), Y), "row 7 is zero in float32"),
    (lambda: verification(X, Y[:-1]), r"labels must be one for each of 16 embeddings; their shape is \[15\]"),
    (lambda: verification(X, Y / 2), "labels must be integers or strings, not float64"),
    (lambda: retrieval(X, Y, gallery=X), "a gallery needs gallery_labels"),
    (lambda: retrieval(X, Y, gallery=X[:, :2], gallery_labels=Y), "gallery have 2 dimensions, and embeddings 3"),
    (lambda: retrieval(X, Y, gallery=X, gallery_labels=["a"] * 16), r"labels \(0, …\) and gallery_labels \(a, …\)"),
    (lambda: retrieval(X, Y * 0), "all labels are the same"),
    (lambda: retrieval(X, np.arange(16)), "no query has a match"),
    (lambda: retrieval(X, Y, ranks=[1, 16]), r"ranks must lie in 1\.\.15"),
    (lambda: retrieval(X, Y, ranks=[0]), r"ranks must lie in 1\.\.15.*got 0"),
    (lambda: retrieval(X, Y, ranks=[]), "there must be a rank"),
    (lambda: verification(X, np.arange(16)), "there is no genuine pair"),
    (lambda: verification(X, Y * 0), "there is no pair of impostors"),
    (lambda: verification(X, Y, fars=[1e-1, 1.0]), "false acceptance rates must lie between 0 and 1"),
    (lambda: verification(X, Y, pairs=[[0, 16]]), r"pairs must lie in 0\.\.15; got 0\.\.16"),
    (lambda: verification(X, Y, pairs=[0, 1]), r"pairs must be \[P, 2\]"),
    (lambda: verification(X, Y, pairs=[[0, 4], [3, 3]]), "pair 1 is of one embedding with itself"),
    (lambda: verification(X, Y, pairs=[[0, 4], [0, 1]]), "folds must lie between 2 and the number of pairs, 2; got 10"),
    (lambda: verification(X, Y, pairs=[[0, 4], [0, 1]], folds=[1, 1]), "all pairs are in one fold"),
    (lambda: verification(X, Y, pairs=[[0, 4], [0, 1]], folds=[1]), "folds must be an integer for each of 2 pairs"),
    (lambda: identification(X, Y, X, Y * 0), "only one identity is enrolled"),
    (lambda: identification(X, Y + 9, X, Y), "no probe has a mate"),
    (lambda: identification(X, Y, X, Y, ranks=[5]), r"ranks must lie in 1\.\.4"),
    (lambda: identification(X, Y, X, Y, fpirs=[0.0]), "false positive identification rates must lie between"),
    (lambda: identification(X, Y, [[1, 0, 0], [-1, 0, 0], [0, 1, 0]], [3, 3, 2]), "of label 3 have a mean of zero"),
    (lambda: nearest(X, X, 17), r"k must lie in 1\.\.16"),
    (lambda: Bootstrap(0), "a resample or more"),
    (lambda: Bootstrap(confidence=95.0), "a confidence between 0 and 1"),
]


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[sentence[:40] for _, sentence in WRONG])
def test_what_is_wrong_is_said(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_large_labels_are_not_taken_for_each_other():
    large = 2**60 + Y
    signed = identification(X, large, X, large, bootstrap=None)
    assert identification(X, large.astype(np.uint64), X, large, bootstrap=None).cmc == signed.cmc
    assert signed.cmc == identification(X, Y, X, Y.astype(np.int8), bootstrap=None).cmc


MEASURES = [
    (AxisType.Explicit, retrieval, False),
    (AxisType.Auto, verification, False),
    (AxisType.Explicit, identification, True),
]


@pytest.mark.parametrize(("axis_type", "measure", "takes_gallery"), MEASURES, ids=["retrieval", "verification", "1:N"])
def test_devices_share_the_work(axis_type, measure, takes_gallery):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    rng = np.random.default_rng(1)
    labels = np.arange(70) % 14
    x = rng.normal(size=(14, 3))[labels] + rng.normal(size=(70, 3))
    spread = jax.device_put(jnp.asarray(x[:68], jnp.float32), NamedSharding(mesh, P(("a", "b"))))
    few = Bootstrap(10)
    gallery = (x, labels) if takes_gallery else ()
    alone = measure(x[:68], labels[:68], *gallery, bootstrap=few)
    shared = measure(spread, labels[:68], *gallery, bootstrap=few, mesh=mesh)
    assert shared.figures() == pytest.approx(alone.figures(), abs=1e-6)
    assert set(shared.intervals) == set(alone.intervals)
    for name, ends in alone.intervals.items():
        assert shared.intervals[name] == pytest.approx(ends, abs=1e-6), name
