"""Charts: curves, histograms of angles and the confusion matrix show the numbers that were given."""

import numpy as np
import pytest

from jaxnets import figures
from jaxnets.figures.angles import angles_between
from jaxnets.figures.confusion_matrix import WRONG, confusion_counts
from jaxnets.figures.training_curves import smoothed


def history(epochs):
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "test_loss": 1.1 / epoch,
            "test_accuracy": 1 - 0.6 / epoch,
            "learning_rate": 0.01 if epoch < 20 else 0.008,
            "smallest_gap_degrees": 30.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def marked(axes, gid):
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def test_curves_draw_the_history():
    assert len(figures.curves(history(5)).axes) == 3
    assert not marked(figures.curves(history(5)).axes[0], "trend")
    assert not marked(figures.curves(history(11)).axes[0], "trend")
    assert len(marked(figures.curves(history(12)).axes[0], "trend")) == 1
    long, accuracy, _ = figures.curves(history(30)).axes
    assert [line.get_xdata()[0] for line in long.get_lines() if line.get_linestyle() == ":"] == [20]  # a new rate
    assert "best 98.00 in epoch 30" in [text.get_text() for text in accuracy.texts]
    assert marked(long, "test")[0].get_xdata().tolist() == list(range(1, 31))
    only = figures.curves([{"epoch": 1, "test_accuracy": 0.5}, {"epoch": 2, "test_accuracy": None}])
    assert [text.get_text() for text in only.axes[0].texts] == ["accuracy, %", "test", "best 50.00 in epoch 1"]
    ruined = [{"epoch": 1, "train_loss": np.nan, "test_loss": np.inf, "test_accuracy": np.nan}]
    for figure in (only, figures.curves([]), figures.curves(ruined)):
        figures.to_png(figure)


def test_the_trend_follows_a_line_exactly():
    x = np.arange(30.0)
    np.testing.assert_allclose(smoothed(x, 3 - 0.1 * x), 3 - 0.1 * x, rtol=1e-9)
    # A straight line through x², weighted by a normal, is too high in the middle by the normal's variance.
    x = np.arange(601.0)
    assert smoothed(x, x**2)[300] - 300**2 == pytest.approx((600 / 12) ** 2, rel=1e-6)


def test_angles_are_those_between_vectors_of_any_dimension():
    embeddings = np.array([[2.0, 0, 0], [0, 0, 0], [1e200, 1e200, 0]])
    class_weights = np.array([[1.0, 0, 0], [0, 5, 0]])
    np.testing.assert_allclose(angles_between(embeddings, class_weights), [[0, 90], [np.nan] * 2, [45, 45]], atol=1e-6)


def test_angle_histograms_mark_the_margin_in_degrees_and_count_beyond_it():
    # Leads of 90 − 2·10 = 70°, of 90 − 2·40 = 10°, and of none, which is not yet correct.
    embeddings = np.array([[np.cos(np.radians(a)), np.sin(np.radians(a))] for a in (10, 40)] + [[1.0, 1.0]])
    figure = figures.angle_histograms(embeddings, np.eye(2), np.zeros(3, int), margin=np.radians(30))
    right = figure.axes[1]
    assert marked(right, "margin")[0].get_xdata()[0] == pytest.approx(30)
    assert [text.get_text() for text in right.texts] == ["66.67 % correct", "33.33 % beyond the margin"]


def test_confusion_counts_true_rows_and_predicted_columns():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    np.testing.assert_array_equal(confusion_counts(labels, predictions, 3), [[1, 1, 0], [0, 1, 0], [1, 0, 2]])
    axes = figures.confusion(labels, predictions, classes=["a", "$b", "c"]).axes[0]
    written = {text.get_position(): text.get_text() for text in marked(axes, "count")}
    assert written == {(0, 0): "1", (1, 0): "1", (1, 1): "1", (0, 2): "1", (2, 2): "2"}
    figures.to_png(axes.figure)


def test_mistakes_are_coloured_up_to_a_fifth_of_their_row():
    counts = [[8, 2, 0], [0, 6, 4], [0, 1, 19]]  # mistakes of 20, 40 and 5 %: as red as can be, no redder, and half
    labels, predictions = (np.repeat(np.indices((3, 3))[i].ravel(), np.ravel(counts)) for i in (0, 1))
    colours = figures.confusion(labels, predictions, classes=["a", "b", "c"]).axes[0].images[0].get_array()
    np.testing.assert_array_equal(colours[0, 1], colours[1, 2])
    np.testing.assert_allclose(colours[2, 1], WRONG(0.5), atol=1e-6)


def test_a_single_epoch_has_a_single_tick():
    figure = figures.curves(history(1))
    assert [axes.get_xticks().tolist() for axes in figure.axes] == [[1], [1], [1]]


@pytest.mark.parametrize("accuracy", [[0.999, 1.0], [1.0, 1.0], [0.2, 0.6]], ids=str)
def test_an_axis_of_accuracies_has_no_tick_above_100(accuracy):
    figure = figures.curves([{"epoch": i, "test_accuracy": value} for i, value in enumerate(accuracy)])
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low < 100 * min(accuracy) and 100 * max(accuracy) < high <= 100 + 0.05 * (100 - low)
    assert all(tick <= 100 for tick in axes.get_yticks() if low <= tick <= high)
    assert (100 in axes.get_yticks()) == (max(accuracy) == 1)


def test_leads_are_drawn_as_shares_of_all_points_the_wrong_ones_in_red():
    # Leads of 90 − 2·20 = 50° twice, and of −50° and, beyond the shown percentiles, no others.
    degrees = np.radians([20, 20, 20, 70])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    left, right = figures.angle_histograms(embeddings, np.eye(2), np.zeros(4, int)).axes
    filled = [patch.get_data() for patch in right.patches if patch.get_fill()]
    correct, wrong = (dict(zip(data.edges[:-1], data.values, strict=True)) for data in filled)
    assert {edge: share for edge, share in correct.items() if share} == {50: 0.75}
    assert {edge: share for edge, share in wrong.items() if share} == {-50: 0.25}
    assert "scaled to its own peak" in left.get_xlabel()
    assert not marked(right, "margin")
