"""Distortions of drawings, each against SciPy's."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxnets.distort import (
    Distortion,
    affine,
    affine_matrix,
    blur,
    distort,
    elastic,
    occlude,
    smooth_field,
    stroke,
)

STILL = dict.fromkeys(Distortion.__dataclass_fields__, 0.0) | {"smoothness": 0.1}


@pytest.fixture(scope="module")
def image():
    return ndimage.gaussian_filter(np.random.default_rng(0).random((12, 16, 2)), (1, 1, 0)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return ndimage.gaussian_filter(rng.integers(0, 256, (6, 16, 16, 1)), (0, 1, 1, 0)).astype(np.uint8)


def test_an_affine_map_is_scipys(image):
    mapped = jax.jit(lambda image, *numbers: affine(image, affine_matrix(*numbers[:3]), numbers[3]))
    for rotation, shear, log_scale, shift in (
        (0.0, 0.0, (0.0, 0.0), (0.0, 0.0)),
        (0.0, 0.0, (0.0, 0.0), (0.25, -0.125)),
        (0.4, 0.3, (0.2, -0.1), (0.05, 0.1)),
    ):
        numbers = [np.asarray(number, np.float32) for number in (rotation, shear, log_scale, shift)]
        cos, sin = np.cos(rotation), np.sin(rotation)
        turn = np.array([[cos, sin], [-sin, cos]]) @ np.array([[1, 0], [shear, 1]])
        matrix = np.diag(np.exp(-np.array(log_scale))) @ turn
        middle = np.array([5.5, 7.5])
        offset = middle - matrix @ (middle + np.array(shift) * [12, 16])
        expected = [
            ndimage.affine_transform(image[:, :, c].astype(np.float64), matrix, offset, order=1, mode="grid-constant")
            for c in range(2)
        ]
        np.testing.assert_allclose(mapped(image, *numbers), np.stack(expected, axis=2), atol=2e-5)


def test_an_elastic_map_is_scipys(image):
    displacement = np.random.default_rng(2).normal(0, 0.1, (2, 12, 16)).astype(np.float32)
    places = np.indices((12, 16)) + displacement * np.array([12, 16])[:, None, None]
    expected = [
        ndimage.map_coordinates(image[:, :, c].astype(np.float64), places, order=1, mode="grid-constant")
        for c in range(2)
    ]
    np.testing.assert_allclose(jax.jit(elastic)(image, displacement), np.stack(expected, axis=2), atol=2e-5)


def test_a_displacement_is_smooth_noise_of_variance_one_up_to_the_edges():
    """SciPy's filter of the same noise, but for a factor, where no edge is near; deviations over 2,000 keys."""
    key, sides = jax.random.key(5), (40, 60)
    field = jax.jit(lambda key: smooth_field(key, sides, 0.05))
    noise = np.asarray(jax.random.normal(key, (2, *sides)), np.float64)
    expected = ndimage.gaussian_filter(noise, (0, 2, 3), truncate=5)
    norms = [
        np.linalg.norm(ndimage.gaussian_filter1d(np.eye(1, 61, 30)[0], deviation, truncate=5)) for deviation in (2, 3)
    ]
    inside = np.s_[:, 10:-10, 15:-15]
    np.testing.assert_allclose(field(key)[inside], (expected / np.prod(norms))[inside], atol=1e-4)
    small = jax.jit(jax.vmap(lambda key: smooth_field(key, (6, 6), 0.3)))(jax.random.split(key, 2000))
    deviations = np.asarray(small).std(axis=0)
    assert np.abs(deviations - 1).max() < 5 / np.sqrt(2 * 2000)


def test_an_elastic_distortion_is_as_strong_as_was_asked(batch):
    """By keys, as the others; without it the rest of the distortion has the same bits."""
    keys = jax.random.split(jax.random.key(0), 6)
    how = Distortion(**STILL | {"elastic": 0.05})
    changed = np.asarray(jax.jit(lambda k, x: distort(k, x, how))(keys, batch))
    assert all((changed[i] != batch[i]).any() for i in range(6))
    for key, image, found in zip(keys, batch, changed, strict=True):
        amount_key, field_key = jax.random.split(jax.random.fold_in(key, 1))
        amount = 0.05 * np.asarray(jax.random.uniform(amount_key))
        places = np.indices((16, 16)) + 16 * amount * np.asarray(smooth_field(field_key, (16, 16), 0.1))
        expected = ndimage.map_coordinates(image[:, :, 0].astype(np.float64), places, order=1, mode="grid-constant")
        assert np.abs(found[:, :, 0] - expected).max() <= 0.51


def test_strokes_are_widened_and_narrowed_by_a_pixel(image):
    widened = jax.jit(stroke)
    of_pixels = {"size": (3, 3, 1), "mode": "nearest"}
    highest, lowest = ndimage.grey_dilation(image, **of_pixels), ndimage.grey_erosion(image, **of_pixels)
    for amount, expected in ((1, highest), (-1, lowest), (0, image), (0.5, (image + highest) / 2)):
        np.testing.assert_allclose(widened(image, np.float32(amount)), expected, atol=1e-6)


def test_a_blur_is_a_gaussian(image):
    blurred = jax.jit(blur)
    for deviation in (0.5, 1.0):
        expected = ndimage.gaussian_filter(
            image.astype(np.float64), (deviation, deviation, 0), mode="nearest", radius=2
        )
        np.testing.assert_allclose(blurred(image, np.float32(deviation)), expected, atol=1e-5)
    np.testing.assert_allclose(blurred(image, np.float32(0)), image, atol=1e-6)


def test_a_rectangle_is_covered(image):
    covered = jax.jit(occlude)(image, np.float32([0.25, 0.5]), np.float32([0.5, 0.25]), np.float32(0.7))
    expected = image.copy()
    expected[3:9, 8:12] = 0.7
    np.testing.assert_array_equal(covered, expected)


def test_a_batch_is_changed_by_keys_alone(batch):
    """In any batch the same; zeros change nothing; each change by itself does."""
    keys = jax.random.split(jax.random.key(0), 6)
    changed = np.asarray(jax.jit(distort)(keys, batch))
    assert changed.shape == batch.shape and all((changed[i] != batch[i]).any() for i in range(6))
    np.testing.assert_array_equal(jax.jit(distort)(keys[::-1], batch[::-1])[::-1], changed)
    np.testing.assert_array_equal(jax.jit(lambda k, x: distort(k, x, Distortion(**STILL)))(keys, batch), batch)


def test_an_occlusion_is_as_frequent_and_large_as_was_asked():
    images = np.full((400, 20, 20, 1), 100, np.uint8)
    how = Distortion(**STILL | {"occlusion": 0.25, "largest_occlusion": 0.5})
    changed = np.asarray(jax.jit(lambda k: distort(k, images, how))(jax.random.split(jax.random.key(0), 400))) != 100
    is_covered = changed.any(axis=(1, 2, 3))
    assert 0.25 - 0.09 < is_covered.mean() < 0.25 + 0.05  # four deviations; some rectangles cover no pixel's centre
    assert 8 <= max(changed.any(axis=2).sum(axis=1).max(), changed.any(axis=1).sum(axis=1).max()) <= 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation", 4.0), ("occlusion", 1.5), ("blur", -1.0), ("stroke", 2.0), ("elastic", -0.1), ("smoothness", 0)],
)
def test_numbers_outside_their_domain_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be in"):
        Distortion(**{name: value})
