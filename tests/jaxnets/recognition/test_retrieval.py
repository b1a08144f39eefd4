import json
import math

import numpy as np
import pytest

from jaxnets.recognition import Bootstrap, retrieval
from jaxnets.recognition.blocks import nearest as blocks

N, RANKS = 90, (1, 2, 5)


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_GALLERY_BLOCK", 32)
        patch.setattr(blocks, "_PRODUCTS", 32 * 100)
        yield


def scores(queries, gallery):
    queries, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery))
    return np.round(queries @ gallery.T * 2**20)


def defined(scores, labels, gallery_labels, alone):
    """Every figure by its definition, one query after the other, in float64."""
    rows = []
    for i, (row, own) in enumerate(zip(scores, labels, strict=True)):
        others = [j for j in range(len(row)) if not (alone and i == j)]
        others.sort(key=lambda j: (-row[j], gallery_labels[j] == own))
        found = [gallery_labels[j] for j in others]
        hits = [label == own for label in found]
        r = sum(hits)
        if not r:
            continue
        figures = {"precision_at_1": hits[0], "r_precision": sum(hits[:r]) / r}
        figures["map_at_r"] = sum(hits[i] * sum(hits[: i + 1]) / (i + 1) for i in range(r)) / r
        for k in RANKS:
            votes = {label: found[:k].count(label) for label in found[:k]}
            ideal = sum(1 / math.log2(i + 2) for i in range(min(k, r)))
            figures[f"recall_at[{k}]"] = any(hits[:k])
            figures[f"ndcg_at[{k}]"] = sum(hits[i] / math.log2(i + 2) for i in range(k)) / ideal
            others_votes = [count for label, count in votes.items() if label != own]
            figures[f"knn_accuracy_at[{k}]"] = votes.get(own, 0) > max(others_votes, default=0)
        rows.append(figures)
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}, len(rows)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("alone", [True, False])
def test_figures_are_their_definitions(tied, alone):
    rng = np.random.default_rng(3)
    x, gallery = (rng.integers(0, 3, (N, 3)) + 0.25 if tied else rng.normal(size=(N, 3)) for _ in range(2))
    labels, gallery_labels = rng.integers(0, 12, N), rng.integers(3, 15, N)
    labels[0] = 99  # which none matches
    if alone:
        gallery, gallery_labels = x, labels
        measured = retrieval(x, labels, ranks=RANKS, bootstrap=None)
    else:
        given = {"gallery": gallery, "gallery_labels": gallery_labels}
        measured = retrieval(x, labels, **given, ranks=RANKS, bootstrap=None)
    expected, with_match = defined(scores(x, gallery), labels, gallery_labels, alone)
    assert measured.num_queries == N
    assert measured.num_without_match == N - with_match > 0
    assert measured.num_gallery == N - alone
    if tied:  # which of several others come first is not defined, and may decide between other labels
        for name in ("knn_accuracy_at[2]", "knn_accuracy_at[5]"):
            del expected[name]
    figures = measured.figures()
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_one_embedding_for_everything_finds_nothing():
    x = np.tile(np.random.default_rng(4).normal(size=(1, 512)), (N, 1))
    measured = retrieval(x, np.arange(N) % 9, ranks=RANKS)
    assert set(measured.figures().values()) == {0.0}
    assert set(measured.intervals.values()) == {(0.0, 0.0)}


def test_each_class_in_its_own_direction_is_perfect():
    labels = np.repeat(["one", "two", "three"], N // 3)
    measured = retrieval(np.eye(3)[np.repeat(np.arange(3), N // 3)], labels, ranks=RANKS)
    assert set(measured.figures().values()) == {1.0}
    assert set(measured.intervals.values()) == {(1.0, 1.0)}


def test_lengths_and_names_of_labels_do_not_matter():
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(N, 3)), np.arange(N) % 9
    one = retrieval(x, labels, bootstrap=None).figures()
    other = retrieval(x * rng.uniform(1, 9, (N, 1)), [f"class {i}" for i in labels], bootstrap=None).figures()
    assert one == other


def test_intervals_are_as_wide_as_the_figures_vary_between_identities():
    rng = np.random.default_rng(6)
    labels = np.arange(N) % 9
    x = rng.normal(size=(9, 3))[labels] + 0.5 * rng.normal(size=(N, 3))
    measured = retrieval(x, labels, ranks=RANKS, bootstrap=Bootstrap(4000))
    all_scores = scores(x, x)
    np.fill_diagonal(all_scores, -np.inf)
    hits = labels[all_scores.argmax(axis=1)] == labels
    of_identities = np.array([hits[labels == c].mean() for c in range(9)])
    deviation = of_identities.std() / math.sqrt(9)
    low, high = measured.intervals["precision_at_1"]
    assert low < measured.precision_at_1 < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert retrieval(x, labels, ranks=RANKS, bootstrap=Bootstrap(4000)).intervals == measured.intervals


def test_a_result_prints_as_a_table_and_goes_into_json():
    rng = np.random.default_rng(7)
    measured = retrieval(rng.normal(size=(N, 3)), np.arange(N) % 9, ranks=[5], bootstrap=Bootstrap(20))
    lines = str(measured).splitlines()
    assert lines[0].startswith("Retrieval: 90 queries of 9 identities among 89 examples")
    assert "95% interval" in lines[1]
    row = next(line for line in lines if "recall_at[5]" in line)
    low, high = measured.intervals["recall_at[5]"]
    assert row.split() == ["recall_at[5]", f"{measured.recall_at[5]:.4f}", f"{low:.4f}", "–", f"{high:.4f}"]
    kept = json.loads(json.dumps(measured.as_dict()))
    assert kept["recall_at[5]"] == measured.recall_at[5]
    assert kept["num_queries"] == N
    assert kept["intervals"]["map_at_r"] == list(measured.intervals["map_at_r"])
