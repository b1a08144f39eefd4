import dataclasses
import json
import math

import numpy as np
import pytest

from jaxnets.separability import directions, neighbour_gaps, separability


def on_circle(degrees, norm=1.0):
    radians = np.radians(np.asarray(degrees, np.float64))
    return norm * np.stack([np.cos(radians), np.sin(radians)], axis=-1)


def decagon(points_per_class=5, jitter=()):
    """Points of class c at 36°·c plus each jitter, class weights at 36°·c."""
    labels = np.repeat(np.arange(10), points_per_class)
    offsets = np.tile(jitter if len(jitter) else np.zeros(points_per_class), 10)
    return on_circle(36 * labels + offsets, norm=7.0), on_circle(36 * np.arange(10)), labels


def test_a_perfect_decagon():
    measured = separability(*decagon())
    assert measured.verdict == "separated"
    assert measured.accuracy == 1
    assert [measured.smallest_gap_degrees, measured.largest_gap_degrees] == pytest.approx([36, 36])
    assert measured.directions_in_use == 10
    assert measured.spread_degrees == pytest.approx([0] * 10, abs=1e-9)
    assert measured.overlap == measured.largest_overlap == 0
    assert measured.fisher_ratio == math.inf
    assert (measured.num_points, measured.num_classes) == (50, 10)


def test_spread_and_fisher_ratio_in_closed_form():
    # Two points a class, ±a off its direction: the mean is cos a long, the classes' means cancel, and so
    # between : within = cos²a : sin²a. The 90th percentile of (a, a) is a.
    for a in (1.0, 10.0, 17.0):
        measured = separability(*decagon(2, jitter=(-a, a)))
        assert measured.spread_degrees == pytest.approx([a] * 10)
        assert measured.mean_spread_degrees == pytest.approx(a)
        assert measured.largest_spread_degrees == pytest.approx(a)
        assert measured.fisher_ratio == pytest.approx(1 / math.tan(math.radians(a)) ** 2)
        assert measured.verdict == "separated"


def test_the_spread_is_the_90th_percentile_of_the_angles():
    # Angles of 0, ±0.1, …, ±10: their sizes in order are 0, 0.1, 0.1, 0.2, 0.2, …; the one at 0.9 of the way is 9.
    measured = separability(*decagon(201, jitter=np.arange(-100, 101) / 10))
    assert measured.spread_degrees == pytest.approx([9.0] * 10)


def test_two_coinciding_directions_overlap():
    embeddings, class_weights, labels = decagon()
    class_weights[1] = class_weights[0]
    embeddings[labels == 1] = embeddings[labels == 0]
    measured = separability(embeddings, class_weights, labels)
    # argmax gives both classes to the first; a point as near to the other class's mean as to its own overlaps.
    assert measured.accuracy == pytest.approx(0.9)
    assert measured.overlap == pytest.approx(0.2)
    assert measured.largest_overlap == 1
    assert measured.smallest_gap_degrees == pytest.approx(0)
    assert measured.largest_gap_degrees == pytest.approx(72)
    assert measured.directions_in_use == 9
    assert measured.verdict == "overlapping"


def test_one_merged_pair_hidden_behind_a_high_accuracy():
    labels = np.concatenate([np.repeat(np.arange(10), 50), [1] * 5])
    rare = (labels == 1) & (np.cumsum(labels == 1) > 5)
    labels = labels[~rare]
    embeddings = on_circle(np.where(labels == 1, 0, 36 * labels))
    measured = separability(embeddings, on_circle(36 * np.arange(10)), labels)
    assert measured.accuracy > 0.95
    assert measured.verdict == "overlapping"


def on_edge(wrong_in_each=0, wrong_in_first=0, points=20, first_gap=36.0):
    """Ten classes of so many points, some of them turned to the next class; the first two rays at so small a gap."""
    labels = np.repeat(np.arange(10), points)
    rank = np.arange(10 * points) % points
    wrong = rank < np.where(labels == 0, wrong_in_first, wrong_in_each)
    rays = 36.0 * np.arange(10)
    rays[0] = 36 - first_gap
    return on_circle(rays[(labels + wrong) % 10]), on_circle(rays), labels


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        pytest.param(
            {"wrong_in_each": 1, "wrong_in_first": 1, "points": 20},
            {"wrong_in_each": 1, "wrong_in_first": 1, "points": 19},
            id="accuracy of 95 %",
        ),
        pytest.param({"wrong_in_first": 2, "points": 20}, {"wrong_in_first": 3, "points": 20}, id="overlap of a tenth"),
        pytest.param({"first_gap": 18.01}, {"first_gap": 17.99}, id="half the ideal gap"),
    ],
)
def test_separated_begins_at_its_stated_bounds(inside, outside):
    assert separability(*on_edge(**inside)).verdict == "separated"
    assert separability(*on_edge(**outside)).verdict == "overlapping"


def test_half_of_the_directions_in_use_are_a_collapse_and_one_more_is_not():
    labels = np.repeat(np.arange(10), 5)
    for used, verdict in ((5, "collapsed"), (6, "overlapping")):
        rays = on_circle(36 * (np.arange(10) % used))
        measured = separability(rays[labels], rays, labels)
        assert (measured.directions_in_use, measured.verdict) == (used, verdict)
    # Of three classes that are present, two directions are more than half.
    measured = separability(on_circle([0, 36, 36]), on_circle(36 * np.arange(10)), np.array([0, 1, 2]))
    assert (measured.directions_in_use, measured.verdict) == (2, "overlapping")


def test_directions_count_from_a_quarter_of_the_ideal_gap_and_of_a_class_on():
    for gap, directions_in_use in ((8.99, 9), (9.01, 10)):
        assert separability(*on_edge(first_gap=gap)).directions_in_use == directions_in_use
    labels = np.arange(10).repeat(400)
    for points, directions_in_use in ((100, 10), (99, 9)):  # of 4000, in the last direction
        degrees = np.where((labels == 9) & (np.arange(4000) % 400 >= points), 0, 36 * labels)
        measured = separability(on_circle(degrees), on_circle(36 * np.arange(10)), labels)
        assert measured.directions_in_use == directions_in_use


@pytest.mark.parametrize("points", ["in one direction", "all around"])
def test_coinciding_class_weights_are_a_collapse(points):
    # The picture of a collapsed run: gaps of 0° to 271°.
    class_weights = on_circle([0, 0.1, 0.2, 0.3, 0.4, 0.5, 88.9, 88.95, 89, 0.6])
    labels = np.arange(1000) % 10
    degrees = np.full(1000, 20.0) if points == "in one direction" else np.linspace(0, 360, 1000)
    measured = separability(on_circle(degrees), class_weights, labels)
    assert measured.verdict == "collapsed"
    assert measured.directions_in_use == (1 if points == "in one direction" else 2)
    assert measured.smallest_gap_degrees == pytest.approx(0.05)
    assert measured.largest_gap_degrees == pytest.approx(271)


def test_embeddings_in_one_direction_are_a_collapse_however_the_class_weights_lie():
    _, class_weights, labels = decagon()
    measured = separability(on_circle(np.full(50, 3.0)), class_weights, labels)
    assert measured.verdict == "collapsed"
    assert measured.accuracy == pytest.approx(0.1)
    assert measured.overlap == 1
    assert measured.fisher_ratio == 0


def test_merged_directions_are_one_across_the_seam_at_180_degrees():
    embeddings, _, labels = decagon()
    measured = separability(embeddings, on_circle([179, -179, 178, -178, 180, 177, -177, 90, 0, -90]), labels)
    assert measured.directions_in_use == 4
    assert measured.smallest_gap_degrees == pytest.approx(1)


def test_shuffled_labels_are_chance():
    embeddings, class_weights, labels = decagon(200, jitter=np.linspace(-15, 15, 200))
    labels = np.random.default_rng(0).permutation(labels)
    measured = separability(embeddings, class_weights, labels)
    assert measured.verdict == "overlapping"
    assert measured.accuracy == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))
    assert measured.overlap > 0.5
    assert measured.fisher_ratio < 0.05


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_numbers_that_are_not_finite_diverge(bad, where):
    arrays = list(decagon())
    arrays[where][3, 1] = bad
    measured = separability(*arrays)
    assert measured.verdict == "diverged"
    assert math.isnan(measured.accuracy)
    assert json.loads(json.dumps(measured.as_dict(), allow_nan=False))["spread_degrees"] == [None] * 10


def noisy(seed=0):
    embeddings, class_weights, labels = decagon(40, jitter=np.linspace(-25, 31, 40))
    return embeddings * np.random.default_rng(seed).uniform(0.1, 9, (400, 1)), class_weights, labels


def assert_same(first, second):
    for field in dataclasses.fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        assert ours == (theirs if field.name == "verdict" else pytest.approx(theirs, rel=1e-9, abs=1e-9)), field.name


def test_a_rotation_changes_nothing():
    embeddings, class_weights, labels = noisy()
    c, s = np.cos(1.234), np.sin(1.234)
    turn = np.array([[c, s], [-s, c]])
    assert_same(
        separability(embeddings, class_weights, labels), separability(embeddings @ turn, class_weights @ turn, labels)
    )


@pytest.mark.parametrize("factor", [1e-300, 1e-3, 1e5, 1e300])
def test_a_scaling_changes_nothing(factor):
    embeddings, class_weights, labels = noisy()
    assert_same(
        separability(embeddings, class_weights, labels),
        separability(embeddings * factor, class_weights / factor, labels),
    )


def test_relabelling_permutes_the_spreads_and_nothing_else():
    embeddings, class_weights, labels = noisy()
    order = np.random.default_rng(1).permutation(10)
    before = separability(embeddings, class_weights, labels)
    after = separability(embeddings, class_weights[order], np.argsort(order)[labels])
    assert after.spread_degrees == pytest.approx([before.spread_degrees[c] for c in order])
    assert_same(before, dataclasses.replace(after, spread_degrees=before.spread_degrees))


def test_zero_vectors_point_nowhere():
    embeddings, class_weights, labels = decagon()
    embeddings[labels == 0] = 0  # argmax would give them to this very class
    assert separability(embeddings, class_weights, labels).accuracy == pytest.approx(0.9)
    embeddings, class_weights, labels = decagon()
    embeddings[labels == 4] = 0
    measured = separability(embeddings, class_weights, labels)
    assert measured.accuracy == pytest.approx(0.9)
    assert measured.overlap == pytest.approx(0.1)
    assert measured.spread_degrees[4] == 180
    class_weights[0] = 0
    measured = separability(embeddings, class_weights, labels)
    assert measured.accuracy == pytest.approx(0.8)
    assert measured.smallest_gap_degrees == 0
    assert measured.largest_gap_degrees == pytest.approx(72)


def test_nothing_points_anywhere():
    measured = separability(np.zeros((4, 2)), np.zeros((3, 2)), np.array([0, 1, 2, 2]))
    assert measured.verdict == "collapsed"
    assert measured.accuracy == measured.fisher_ratio == 0
    assert measured.overlap == 1
    assert measured.spread_degrees == (180, 180, 180)


def test_absent_classes_and_classes_of_one_point():
    class_weights = on_circle([0, 90, 180, 270])
    measured = separability(on_circle([0, 91, 89]), class_weights, np.array([0, 1, 1]))
    assert measured.spread_degrees[0] == 0
    assert measured.spread_degrees[1] == pytest.approx(1)
    assert np.isnan(measured.spread_degrees[2:]).all()
    assert measured.mean_spread_degrees == pytest.approx(0.5)
    assert measured.verdict == "separated"
    assert measured.as_dict()["spread_degrees"][2] is None


def test_a_class_whose_points_cancel_has_no_mean_direction():
    measured = separability(on_circle([0, 180, 90]), on_circle([0, 90]), np.array([0, 0, 1]))
    assert measured.spread_degrees[0] == 180
    assert measured.overlap == pytest.approx(2 / 3)


@pytest.mark.parametrize("num_classes", [2, 3, 20, 100])
def test_any_number_of_classes(num_classes):
    labels = np.repeat(np.arange(num_classes), 3)
    angles = 360 / num_classes * labels
    measured = separability(on_circle(angles), on_circle(angles[::3]), labels)
    assert measured.verdict == "separated"
    assert measured.smallest_gap_degrees == pytest.approx(360 / num_classes)
    assert measured.directions_in_use == num_classes


def test_lower_precision_and_integers_are_welcome():
    embeddings, class_weights, labels = noisy()
    exact = separability(embeddings, class_weights, labels)
    half = separability(embeddings.astype(np.float32), class_weights.astype(np.float32), labels.astype(np.uint8))
    assert half.accuracy == pytest.approx(exact.accuracy, abs=0.01)
    assert half.fisher_ratio == pytest.approx(exact.fisher_ratio, rel=1e-5)


def test_the_dictionary_is_plain():
    record = separability(*noisy()).as_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert list(record) == [field.name for field in dataclasses.fields(separability(*noisy()))]


@pytest.mark.parametrize(
    ("embeddings", "class_weights", "labels", "message"),
    [
        (np.ones((4, 3)), np.ones((2, 3)), [0, 1, 0, 1], "plane"),
        (np.ones((4, 2)), np.ones(2), [0, 1, 0, 1], "plane"),
        (np.ones((4, 2)), np.ones((2, 2)), [0, 1, 0], "as many labels"),
        (np.ones((4, 2)), np.ones((1, 2)), [0, 0, 0, 0], "two classes"),
        (np.ones((4, 2)), np.ones((2, 2)), [0, 1, 2, 0], "labels must lie"),
        (np.ones((4, 2)), np.ones((2, 2)), [0, 1, -1, 0], "labels must lie"),
        (np.ones((0, 2)), np.ones((2, 2)), [], "no points"),
    ],
)
def test_unusable_arrays_are_refused(embeddings, class_weights, labels, message):
    with pytest.raises(ValueError, match=message):
        separability(embeddings, class_weights, np.array(labels, np.int64))


def test_gaps_go_around_the_circle_once():
    gaps = neighbour_gaps(directions(on_circle([10, 100, 350])))
    assert np.degrees(gaps) == pytest.approx([20, 90, 250])  # from 350° (which is −10°) on
    assert neighbour_gaps(directions(on_circle([5]))) == pytest.approx([2 * math.pi])
