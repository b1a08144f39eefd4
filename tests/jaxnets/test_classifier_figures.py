"""The pictures of the gender study: what is drawn is what was given."""

import numpy as np
import pytest

from jaxnets import figures
from jaxnets.figures.mistakes import most_confident


def texts(figure):
    return [text.get_text() for axes in [figure, *figure.axes] for text in axes.texts]


def line(axes, gid):
    return next(artist for artist in axes.get_lines() if artist.get_gid() == gid)


def test_every_step_is_drawn_where_its_epoch_is_and_the_trend_of_a_line_is_that_line():
    losses = np.linspace(2, 1, 60)
    axes = figures.step_losses(losses, steps_per_epoch=20).axes[0]
    np.testing.assert_allclose(line(axes, "steps").get_xdata(), np.arange(1, 61) / 20)
    np.testing.assert_array_equal(line(axes, "steps").get_ydata(), losses)
    np.testing.assert_allclose(line(axes, "trend").get_ydata(), losses, rtol=1e-9)


def test_a_long_run_is_fitted_by_means_and_a_ruined_one_is_drawn():
    losses = np.linspace(2, 1, 100_000)
    trend = line(figures.step_losses(losses, steps_per_epoch=100).axes[0], "trend")
    np.testing.assert_allclose(trend.get_ydata(), np.interp(trend.get_xdata(), [0.01, 1000], [2, 1]), rtol=1e-6)
    assert len(trend.get_xdata()) == 1000
    losses[50:] = np.nan
    figures.to_png(figures.step_losses(losses[:60], steps_per_epoch=100))
    figures.to_png(figures.step_losses(np.full(3, np.nan), steps_per_epoch=2))


def test_a_single_spike_does_not_flatten_the_other_steps():
    losses = np.ones(1000)
    losses[:20], losses[500] = 2, 1000
    assert figures.step_losses(losses, steps_per_epoch=100).axes[0].get_ylim() == (0, 2.5)


def test_mistakes_are_the_wrong_ones_the_surest_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.05, 0.95], [0.45, 0.55]])
    labels = np.array([1, 1, 0, 0, 0])
    np.testing.assert_array_equal(most_confident(labels, probabilities), [3, 0, 2, 4])
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 2, 2, 3), 50, np.uint8)
    figure = figures.mistakes(images, labels, probabilities, classes=["cat", "dog"])
    shown = [int(axes.images[0].get_array()[0, 0, 0]) // 50 for axes in figure.axes]
    assert shown == [3, 0, 2, 4]
    assert [text for text in texts(figure) if "%" in text] == ["dog 95 %", "cat 90 %", "dog 60 %", "dog 55 %"]
    assert [text for text in texts(figure) if text.startswith("is ")] == ["is cat", "is dog", "is cat", "is cat"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_of_mistakes_is_24_and_may_be_empty(channels):
    images = np.zeros((40, 4, 4, channels), np.uint8)
    labels, probabilities = np.zeros(40, int), np.tile([0.3, 0.7], (40, 1))
    assert len(figures.mistakes(images, labels, probabilities, classes=["a", "b"]).axes) == 24
    figure = figures.mistakes(images, labels + 1, probabilities, classes=["a", "b"])
    assert not figure.axes and "no mistakes" in texts(figure)


def test_a_comparison_has_a_row_for_each_the_smallest_on_top():
    rows = [
        figures.ComparedNetwork("large", 134_000_000, 512.0, 0.94, 0.962, 600.0, 30.0),
        figures.ComparedNetwork("small", 2_000_000, 8.7, 0.95, 0.951, 44.0, 300.0),
    ]
    figure = figures.comparison(rows)
    accuracy, parameters, sizes, seconds, speeds = figure.axes
    names = dict(zip([label.get_text() for label in accuracy.get_yticklabels()], accuracy.get_yticks(), strict=True))
    assert names["small"] > names["large"]
    drawn = [tuple(artist.get_xdata()) for artist in accuracy.get_lines() if len(artist.get_xdata()) == 2]
    np.testing.assert_allclose(drawn, [(95, 95.1), (94, 96.2)])
    assert {"2.00", "134.00"} <= {text.get_text() for text in parameters.texts}
    for axes, values in ((sizes, [8.7, 512]), (seconds, [44, 600]), (speeds, [300, 30])):
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], values)
        assert {f"{value:.1f}" for value in values} <= {text.get_text() for text in axes.texts}
    figures.to_png(figures.comparison([]))
