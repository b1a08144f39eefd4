import json
import math

import numpy as np
import pytest

from jaxnets.recognition import Bootstrap, verification
from jaxnets.recognition.blocks import pairs as blocks

N, CLASSES = 96, 24


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """Several blocks, whose counts go to the host after every fourth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK", 32)
        patch.setattr(blocks, "_LARGEST", 4 * 2 * 32 * 32)
        yield


def clustered(seed, n=N, classes=CLASSES):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(classes, 4))[labels] + 0.6 * rng.normal(size=(n, 4)), labels


def all_pairs(x, labels):
    """Rounded scores in float64, and whether pairs are genuine."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    one, other = np.triu_indices(len(x), 1)
    return np.round((x @ x.T)[one, other] * 2**20) / 2**20, labels[one] == labels[other]


def tar_at(scores, genuine, far):
    """By its definition: the most genuine pairs that a threshold accepts with at most so many impostors."""
    best = 0.0
    for threshold in scores:
        accepted = scores >= threshold
        if accepted[~genuine].mean() <= far:
            best = max(best, accepted[genuine].mean())
    return best


def test_figures_are_their_definitions():
    x, labels = clustered(0)
    measured = verification(x, labels, bootstrap=None)
    scores, genuine = all_pairs(x, labels)
    assert measured.num_genuine == genuine.sum()
    assert measured.num_impostor == (~genuine).sum()
    assert measured.num_identities == CLASSES
    higher = scores[genuine][:, None] - scores[~genuine][None, :]
    assert measured.auc == pytest.approx(((higher > 0) + (higher == 0) / 2).mean(), abs=1e-9)
    for far in (1e-1, 1e-2):
        assert measured.tar_at_far[far] == tar_at(scores, genuine, far)
        accepted = scores >= measured.threshold_at_far[far]
        assert accepted[genuine].mean() == measured.tar_at_far[far]
        assert accepted[~genuine].mean() <= far
    # 4,416 pairs of impostors: a thousandth of them is fewer than ten.
    assert measured.tar_at_far[1e-3] is None
    assert "4,416 pairs of impostors it is 4.42, and 10 are needed" in measured.not_stated["tar_at_far[0.001]"]
    # The straight line of equal errors crosses the ROC between two of its points.
    errors = np.array([[(scores[~genuine] >= t).mean(), (scores[genuine] < t).mean()] for t in np.unique(scores)])
    below, above = errors[errors[:, 0] <= errors[:, 1]][0], errors[errors[:, 0] >= errors[:, 1]][-1]
    assert below[0] <= measured.eer <= above[0]
    assert above[1] <= measured.eer <= below[1]


def test_ten_errors_are_enough():
    # Of 100 + 100 embeddings in two classes, 10,000 pairs are of impostors.
    x, labels = clustered(1, 200, 2)
    measured = verification(x, labels, fars=[1e-3, 9e-4], bootstrap=None)
    assert measured.num_impostor == 10_000
    assert measured.tar_at_far[1e-3] is not None
    assert list(measured.not_stated) == ["tar_at_far[0.0009]"]


def test_one_embedding_for_everything_is_chance():
    x = np.tile(np.random.default_rng(4).normal(size=(1, 512)), (N, 1))
    labels = np.arange(N) % CLASSES
    measured = verification(x, labels)
    assert measured.auc == measured.eer == 0.5
    assert measured.tar_at_far[1e-1] == measured.tar_at_far[1e-2] == 0
    assert measured.threshold_at_far[1e-1] == math.inf
    assert measured.intervals["auc"] == measured.intervals["eer"] == (0.5, 0.5)
    assert measured.intervals["tar_at_far[0.1]"] == (0, 0)
    alike, unlike = ([[i, i + step] for i in range(40)] for step in (CLASSES, 1))
    in_folds = verification(x, labels, pairs=np.stack([alike, unlike], axis=1).reshape(80, 2))
    assert in_folds.accuracy == pytest.approx(0.5)
    assert in_folds.auc == 0.5


def test_each_class_in_its_own_direction_is_perfect():
    labels = np.arange(N) % 4
    measured = verification(np.eye(4)[labels] * 3, labels)
    assert measured.auc == measured.tar_at_far[1e-2] == 1
    assert measured.eer == 0
    assert measured.intervals["tar_at_far[0.01]"] == (1, 1)
    assert measured.threshold_at_far[1e-2] == pytest.approx(1)


def test_rates_of_gaussian_like_scores_in_closed_form():
    # On a circle with angles ±a about each of two opposite directions, genuine cosines are 1 or cos 2a, and those of
    # impostors −1 or −cos 2a: with a over 45° the smaller genuine ones are below the larger ones of impostors.
    a = math.radians(50)
    angles = np.tile([a, -a], 48) + np.repeat([0, math.pi], 48)
    labels = np.repeat([0, 1], 48)
    measured = verification(np.stack([np.cos(angles), np.sin(angles)], axis=1), labels, bootstrap=None)
    same = 2 * 2 * (24 * 23 / 2)  # genuine pairs at one angle, of either class
    wide = 2 * 24 * 24
    assert measured.num_genuine == same + wide
    assert measured.tar_at_far[1e-1] == pytest.approx(same / (same + wide))
    assert measured.threshold_at_far[1e-1] == pytest.approx(1)
    assert measured.auc == pytest.approx((same + wide / 2) / (same + wide))


def folds_by_search(scores, genuine, folds):
    """The accuracy of each fold, with the threshold found by trying every one between two scores."""
    found = []
    for fold in np.unique(folds):
        rest = folds != fold
        levels = np.unique(scores[rest])
        tried = [math.inf, *((levels[1:] + levels[:-1]) / 2)[::-1], (levels[0] - 1) / 2]
        right = [((scores[rest] >= t) == genuine[rest]).sum() for t in tried]
        threshold = tried[int(np.argmax(right))]
        found.append(((scores[~rest] >= threshold) == genuine[~rest]).mean())
    return found


def test_given_pairs_in_folds():
    x, labels = clustered(2)
    scores, genuine = all_pairs(x, labels)
    chosen = np.concatenate([np.flatnonzero(genuine)[:103], np.flatnonzero(~genuine)[::30][:103]])
    chosen = np.random.default_rng(0).permutation(chosen)
    pairs = np.stack(np.triu_indices(N, 1), axis=1)[chosen]
    measured = verification(x, labels, pairs=pairs, fars=[1e-1])
    # 206 pairs: six folds of 21, and four of 20.
    folds = np.repeat(np.arange(10), [21] * 6 + [20] * 4)
    expected = folds_by_search(scores[chosen], genuine[chosen], folds)
    assert measured.accuracy_of_folds == pytest.approx(tuple(expected))
    assert measured.accuracy == pytest.approx(np.mean(expected))
    assert measured.accuracy_std == pytest.approx(np.std(expected))
    assert (measured.num_genuine, measured.num_impostor) == (103, 103)
    assert measured.tar_at_far[1e-1] == tar_at(scores[chosen], genuine[chosen], 1e-1)
    for name in ("accuracy", "auc", "tar_at_far[0.1]"):
        low, high = measured.intervals[name]
        assert low < measured.figures()[name] < high
    shuffled = np.random.default_rng(1).permutation(206)
    other = verification(x, labels, pairs=pairs[shuffled], folds=folds[shuffled], fars=[1e-1], bootstrap=None)
    assert other.accuracy_of_folds == measured.accuracy_of_folds


def test_all_pairs_given_are_all_pairs():
    x, labels = clustered(3)
    every = verification(x, labels, fars=[1e-1])
    given = verification(x, labels, pairs=np.stack(np.triu_indices(N, 1), axis=1)[:, ::-1], fars=[1e-1])
    ours, theirs = every.figures(), given.figures()
    assert {name: theirs[name] for name in ours} == pytest.approx(ours, abs=1e-9)
    for name, ends in every.intervals.items():
        assert given.intervals[name] == pytest.approx(ends, abs=1e-9)


def test_intervals_are_those_of_identities_drawn_again():
    x, labels = clustered(4)
    measured = verification(x, labels, fars=[1e-1, 1e-2], bootstrap=Bootstrap(2000))
    scores, genuine = all_pairs(x, labels)
    one, other = (labels[side] for side in np.triu_indices(N, 1))
    rng = np.random.default_rng(0)
    order = np.argsort(-scores)
    drawn = []
    for _ in range(400):
        weight = np.bincount(rng.integers(0, CLASSES, CLASSES), minlength=CLASSES)
        weights = np.where(genuine, weight[one], weight[one] * weight[other])[order]
        tar, far = (np.cumsum(weights * kind[order]) / (weights * kind[order]).sum() for kind in (genuine, ~genuine))
        drawn.append([np.interp(0.1, far, tar), np.interp(0.01, far, tar), np.interp(1, far + tar, far)])
    for name, column in zip(("tar_at_far[0.1]", "tar_at_far[0.01]", "eer"), np.array(drawn).T, strict=True):
        low, high = np.quantile(column, [0.025, 0.975])
        ours = measured.intervals[name]
        assert ours[1] - ours[0] == pytest.approx(high - low, rel=0.2), name
        assert sum(ours) / 2 == pytest.approx((low + high) / 2, abs=0.15 * (high - low)), name


def test_copies_of_every_example_narrow_no_interval():
    x, labels = clustered(5)
    once = verification(x, labels, fars=[1e-1]).intervals["auc"]
    twice = verification(np.concatenate([x, x]), np.concatenate([labels, labels]), fars=[1e-1]).intervals["auc"]
    assert twice[1] - twice[0] > 0.6 * (once[1] - once[0])


def test_resamples_without_a_genuine_pair_do_not_count():
    # One identity alone has two examples, which are one: it is not among a third of the resamples.
    rng = np.random.default_rng(6)
    x = rng.normal(size=(N, 4))
    x[0] = x[1]
    measured = verification(x, np.maximum(np.arange(N), 1), fars=[1e-1])
    assert measured.num_genuine == 1
    assert measured.auc == measured.tar_at_far[1e-1] == 1
    assert measured.intervals["auc"] == measured.intervals["tar_at_far[0.1]"] == (1, 1)
    assert measured.intervals["eer"] == (0, 0)


def test_a_result_goes_into_json():
    x, labels = clustered(0)
    measured = verification(x, labels, bootstrap=Bootstrap(20))
    kept = json.loads(json.dumps(measured.as_dict()))
    assert kept["tar_at_far[0.001]"] is None
    assert "not stated" in kept["not_stated"]["tar_at_far[0.001]"]
    assert kept["auc"] == measured.auc
    assert "not stated: of 4,416" in str(measured)
