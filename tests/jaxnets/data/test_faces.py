import math

import numpy as np
import pytest

from jaxnets.data import DataError, load
from jaxnets.data.faces import TRAITS, draw_traits


@pytest.fixture(scope="module")
def small():
    return load("faces", size=32)


def test_the_drawings_are_the_same_everywhere(small):
    # Worked out with Pillow 11.0 and 13.0, on CPython 3.11 and 3.12.
    assert small.fingerprint() == "eb8b6c56d8650815"


def test_two_thousand_and_five_hundred_half_of_each_family(small):
    assert small.train.images.shape == (2000, 32, 32, 3) and small.test.images.shape == (500, 32, 32, 3)
    assert np.bincount(small.train.labels).tolist() == [1000, 1000]
    assert np.bincount(small.test.labels).tolist() == [250, 250]
    every = np.concatenate([small.train.images, small.test.images]).reshape(2500, -1)
    assert len(np.unique(every, axis=0)) == 2500


def test_it_says_that_these_are_drawings(small):
    assert all("drawn" in name for name in small.classes)
    [note] = small.notes
    assert "drawings" in note and "not photographs" in note


def normal_cdf(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def test_traits_tell_the_families_as_well_as_the_docstring_says():
    n = 100_000
    traits, labels = draw_traits(n, seed=0)
    signs = 2 * labels - 1
    deviations = 5 * math.sqrt(0.25 / n)  # five standard errors of a share, at most
    for trait in range(len(TRAITS)):
        mean, deviation = (traits[:, trait] * signs).mean(), (traits[:, trait] - 1000 * signs).std()
        assert mean == pytest.approx(1000, abs=5 * 1000 / math.sqrt(n))
        assert deviation == pytest.approx(1000, rel=5 / math.sqrt(n))
        alone = (traits[:, trait] > 0) == labels
        # Twelve uniform variables have an excess of −1/10: the tails of their sum are a little lighter than normal.
        assert alone.mean() == pytest.approx(normal_cdf(1), abs=deviations + 0.003)
    together = (traits.sum(axis=1) > 0) == labels
    assert together.mean() == pytest.approx(normal_cdf(2), abs=deviations + 0.003)


def linear_accuracy(features, dataset):
    """On the test split, of ridge regression from [N, F] on ±1."""
    train, test = (np.hstack([features(split.images), np.ones((len(split.labels), 1))]) for split in dataset)
    targets = 2.0 * dataset[0].labels - 1
    weights = np.linalg.solve(train.T @ train + 1e-2 * np.eye(train.shape[1]), train.T @ targets)
    return ((test @ weights > 0) == dataset[1].labels).mean()


def mean_colour(images):
    means = images.mean(axis=(1, 2)) / 255
    return np.hstack([means, (means[:, :, np.newaxis] * means[:, np.newaxis]).reshape(len(means), -1)])


def coarse_pixels(images):
    return images.reshape(len(images), 16, 2, 16, 2, 3).mean(axis=(2, 4)).reshape(len(images), -1) / 255


def test_the_families_differ_where_the_mean_colour_does_not_tell(small):
    both = (small.train, small.test)
    chance = 4 * math.sqrt(0.25 / 500)  # four standard errors of an accuracy of one half
    assert linear_accuracy(mean_colour, both) == pytest.approx(0.5, abs=chance)
    # Fixed positions see something of the traits, though faces differ in place and size; far less than there is.
    assert 0.5 + chance < linear_accuracy(coarse_pixels, both) < 0.9


@pytest.fixture
def few(small, monkeypatch):
    """Eight faces and two, the first ones of the set."""
    monkeypatch.setattr("jaxnets.data.faces._TRAIN", 8)
    monkeypatch.setattr("jaxnets.data.faces._TEST", 2)


def test_224_is_the_default_and_a_face_at_one_size_looks_like_it_does_at_another(few, small):
    large = load("faces").train.images
    assert large.shape == (8, 224, 224, 3)
    shrunk = large.reshape(8, 32, 7, 32, 7, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.train.images[:8]).mean() < 8  # edges alone differ, by roundings


def test_a_size_that_shows_no_face_is_refused(few):
    assert load("faces", size=16).train.images.shape == (8, 16, 16, 3)
    with pytest.raises(DataError, match="faces: size is 15, at which a face cannot be drawn; give at least 16"):
        load("faces", size=15)
