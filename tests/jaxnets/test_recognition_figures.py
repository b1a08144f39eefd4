"""Figures of recognition: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from jaxnets import figures
from jaxnets.figures.nearest_sheet import RIGHT
from jaxnets.figures.palette import ALARM, FAINT
from jaxnets.recognition import verification

LABELS = np.repeat(np.arange(6, dtype=np.int32), 4)


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(0)
    return (np.eye(6)[LABELS] + rng.normal(0, 0.3, (24, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def pairs(embeddings):
    """The ROC, and the cosines of genuine and of impostor pairs in float64."""
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    one, other = np.triu_indices(24, 1)
    cosines, genuine = (unit[one] * unit[other]).sum(axis=1), LABELS[one] == LABELS[other]
    return verification(embeddings, LABELS, bootstrap=None).roc, cosines[genuine], cosines[~genuine]


def test_the_roc_is_that_of_all_pairs(pairs):
    roc, genuine, impostor = pairs
    figure = figures.roc({"a": (roc.far, roc.tar), "b": (roc.far, roc.far)}, smallest_far=0.01)
    (axes,) = figure.axes
    _, drawn, chance = axes.lines
    assert axes.get_xscale() == "log"
    for far, percent in zip(drawn.get_xdata()[::50], drawn.get_ydata()[::50], strict=True):
        accepted = int(np.floor(far * len(impostor) + 1e-9))
        threshold = np.sort(impostor)[::-1][accepted] if accepted < len(impostor) else -1
        assert percent == pytest.approx(100 * np.mean(genuine > threshold), abs=1e-6)
    assert np.all(chance.get_ydata() <= 100 * chance.get_xdata() + 1e-9)
    assert [text.get_text() for text in axes.texts[1:]] == ["a", "b"]


def test_the_distributions_are_those_of_both_kinds(pairs):
    roc, genuine, impostor = pairs
    figure = figures.cosine_distributions(roc.thresholds, roc.far, roc.tar, marked={"FAR 0.1": 0.4})
    stairs = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    for patch, cosines in zip(stairs, (impostor, genuine), strict=True):
        values, edges, _ = patch.get_data()
        assert values.sum() == pytest.approx(100)
        middle = edges[len(edges) // 2]
        assert values[len(edges) // 2 :].sum() == pytest.approx(100 * np.mean(cosines >= middle))
    assert figure.axes[0].lines[0].get_xdata()[0] == 0.4


def test_ranks_begin_at_1():
    figure = figures.cmc({"a": (0.5, 0.75, 1.0)})
    line = figure.axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xydata(), [[1, 50], [2, 75], [3, 100]])
    assert "rank 1: 50.0 %" in [text.get_text() for text in figure.axes[0].texts]


def test_names_of_lines_that_end_together_are_apart():
    nothing = np.full(3, np.nan)
    series = {name: figures.Series(np.array([0.1, 0.2, 0.9]), nothing, nothing) for name in "abc"}
    unknown = {"none": figures.Series(nothing, nothing, nothing)}
    figure = figures.figures_over_epochs(np.array([3.0, 2.0, 1.0]), {"retrieval, %": series | unknown})
    loss, panel = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [3, 2, 1] and len(panel.lines) == 3
    heights = sorted(text.get_position()[1] for text in panel.texts if text.get_text() in "abc")
    assert len(heights) == 3 and min(np.diff(heights)) > 0.07 and heights[-1] <= 1


def test_frames_tell_right_from_wrong():
    picture = np.zeros((8, 8, 1), np.uint8)
    shown = {"query": picture, "name": "q", "pictures": [picture, None], "names": ["a", "b"]}
    cosines = np.array([0.9, 0.8], np.float32)
    known = figures.Found(**shown, cosines=cosines, matches=np.array([True, False]))
    figure = figures.nearest_sheet([known, figures.Found(**shown, cosines=cosines)])
    (axes,) = figure.axes
    frames = [to_hex(patch.get_edgecolor()) for patch in axes.patches]
    assert frames[1:3] == [RIGHT, ALARM] and frames[4:] == [FAINT, FAINT]
    assert len(axes.images) == 4
    assert [text.get_text() for text in axes.texts[:5]] == ["q", "0.900", "a", "0.800", "b"]


def test_shares_are_sorted_and_said():
    figure = figures.shares(
        {"a": (0.25, 1200), "b": (1.0, 3), "a very long name of a family of fonts": (0.5, 7)}, heading="h"
    )
    (axes,) = figure.axes
    assert [patch.get_width() for patch in axes.patches[3:]] == [100, 50, 25]
    assert [text.get_text() for text in axes.texts[:3]] == ["100.0 % of 3", "50.0 % of 7", "25.0 % of 1,200"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b", "a very long name of a family…", "a"]
    assert len(figures.to_png(figure)) > 1000
