import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxnets.augment import (
    Augmentation,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    choose_crop,
    crop_and_resize,
    flip,
)
from jaxnets.augment import augment as augment_eagerly

NOTHING = Augmentation(flip=0, smallest_area=1, widest_ratio=1, brightness=0, contrast=0, saturation=0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 12, 16, 3), np.uint8)
IMAGE = np.float32(IMAGES[0]) / 255
EPS = np.finfo(np.float32).eps

augment = jax.jit(augment_eagerly, static_argnums=2)


def keys(seed, n=5):
    return jax.random.split(jax.random.key(seed), n)


def only(**changes):
    return Augmentation(**{name: getattr(NOTHING, name) for name in NOTHING.__dataclass_fields__} | changes)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_asked_for_changes_nothing(channels):
    images = IMAGES[..., :channels]
    np.testing.assert_array_equal(augment(keys(0), images, NOTHING), images, strict=True)


def test_a_certain_flip_is_a_mirror_and_twice_is_none():
    mirrored = augment(keys(0), IMAGES, only(flip=1))
    np.testing.assert_array_equal(mirrored, IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(augment(keys(1), mirrored, only(flip=1)), IMAGES)
    np.testing.assert_array_equal(flip(flip(jnp.asarray(IMAGE))), IMAGE)


def test_half_of_the_images_are_mirrored_each_by_a_number_of_its_own():
    images = np.tile(np.uint8([[[[0], [255]]]]), (2000, 1, 1, 1))
    mirrored = np.asarray(augment(keys(0, 2000), images, only(flip=0.5)))[:, 0, 0, 0] == 255
    assert abs(mirrored.mean() - 0.5) < 5 * np.sqrt(0.25 / 2000)


def test_the_key_determines_all_and_every_image_differs():
    images = np.tile(IMAGES[:1], (64, 1, 1, 1))
    first, again = (np.asarray(augment(keys(3, 64), images)) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == images.shape
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first.reshape(64, -1), axis=0)) == 64
    assert (first != np.asarray(augment(keys(4, 64), images))).any(axis=(1, 2, 3)).all()
    eager = np.asarray(augment_eagerly(keys(3, 64), images)).astype(int)
    assert np.abs(eager - first).max() <= 1  # a rounding may fall on the other side


def test_images_split_over_an_explicit_mesh_are_changed_alike():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    images = np.concatenate([IMAGES, IMAGES[:1]])
    got = augment(keys(3, 6), jax.device_put(images, jax.NamedSharding(mesh, jax.P("data"))))
    assert got.sharding.spec[0] == "data"
    np.testing.assert_array_equal(got, augment(keys(3, 6), images))


def test_an_image_is_changed_alike_whatever_shares_its_batch():
    changed = np.asarray(augment(keys(0), IMAGES))
    some = np.asarray(augment(keys(0)[2:4], IMAGES[2:4]))
    np.testing.assert_array_equal(some, changed[2:4])


@pytest.mark.parametrize(
    ("top", "left", "height", "width"), [(0, 0, 12, 16), (2, 3, 6, 8), (1.3, 2.6, 8.2, 11.1), (4.5, 0, 7.5, 16)]
)
def test_a_crop_is_pillows_resize_of_a_box(top, left, height, width):
    shares = jnp.float32([top / 12, left / 16]), jnp.float32([height / 12, width / 16])
    cropped = np.asarray(crop_and_resize(jnp.asarray(IMAGE), *shares))
    box = (left, top, left + width, top + height)
    for channel in range(3):
        picture = Image.fromarray(IMAGE[:, :, channel])
        expected = np.asarray(picture.resize((16, 12), Image.Resampling.BILINEAR, box=box))
        # Positions of up to 16 pixels are rounded to eps·16; neighbouring values differ by 1 at most, in two axes.
        np.testing.assert_allclose(cropped[:, :, channel], expected, atol=4 * 16 * EPS)


def test_a_crop_of_a_plane_is_the_plane_seen_closer():
    rows, columns = np.meshgrid(np.arange(12) + 0.5, np.arange(16) + 0.5, indexing="ij")
    plane = np.float32(0.02 * rows + 0.03 * columns)[..., np.newaxis]
    corner, size = np.float64([0.25, 0.125]), np.float64([0.5, 0.75])
    cropped = crop_and_resize(jnp.asarray(plane), jnp.asarray(corner, jnp.float32), jnp.asarray(size, jnp.float32))
    expected = 0.02 * (corner[0] * 12 + rows * size[0]) + 0.03 * (corner[1] * 16 + columns * size[1])
    np.testing.assert_allclose(cropped[..., 0], expected, atol=4 * 16 * EPS)


def test_crops_lie_within_the_image_and_have_the_areas_and_ratios_asked_for():
    numbers = np.random.default_rng(0).random((5000, 4), np.float32)
    corner, size = map(np.asarray, jax.vmap(lambda four: choose_crop(four, 0.3, 4 / 3))(numbers))
    assert (corner >= 0).all() and (corner + size <= 1 + EPS).all() and (size <= 1).all()
    area, ratio = size.prod(axis=1), size[:, 1] / size[:, 0]
    whole = (size < 1).all(axis=1)  # not cut short by the image's sides
    assert (area[whole] >= 0.3 * (1 - 4 * EPS)).all() and (ratio <= 4 / 3 * (1 + 8 * EPS)).all()
    assert (ratio >= 3 / 4 * (1 - 8 * EPS)).all()
    # Up to an area of 3/4 no side is cut short; there the area is uniform, and the ratio's logarithm is.
    free = area < 0.7
    assert whole[free].all()
    standard_error = 1 / np.sqrt(12 * free.sum())
    assert area[free].mean() == pytest.approx(0.5, abs=5 * 0.4 * standard_error)
    share = np.log(ratio[free]) / np.log(4 / 3)  # within ±1
    assert share.mean() == pytest.approx(0, abs=5 * 2 * standard_error)
    assert (share**2).mean() == pytest.approx(1 / 3, abs=5 * np.sqrt(4 / 45 / free.sum()))
    # Both ends of what is left are reached.
    place = corner / np.maximum(1 - size, 1e-6)
    assert place[whole].min() < 0.01 and place[whole].max() > 0.99


def test_a_whole_crop_is_the_image_itself():
    np.testing.assert_array_equal(crop_and_resize(jnp.asarray(IMAGE), jnp.zeros(2), jnp.ones(2)), IMAGE)
    corner, size = choose_crop(jnp.float32([0.2, 0.4, 0.6, 0.8]), 1.0, 1.0)
    np.testing.assert_array_equal(size, [1, 1])
    np.testing.assert_array_equal(corner, [0, 0])


PIXELS = np.float32([[[0.5, 0.25, 1.0], [0.0, 0.5, 0.0]]])
GREYS = [0.2989 * 0.5 + 0.587 * 0.25 + 0.114 * 1.0, 0.587 * 0.5]


def test_colours_by_hand():
    np.testing.assert_allclose(adjust_brightness(jnp.asarray(PIXELS), jnp.float32(1.5)), np.minimum(PIXELS * 1.5, 1))
    mean = sum(GREYS) / 2
    contrast = np.clip(mean + 1.5 * (PIXELS - mean), 0, 1)
    np.testing.assert_allclose(adjust_contrast(jnp.asarray(PIXELS), jnp.float32(1.5)), contrast, atol=8 * EPS)
    grey = np.float32(GREYS)[np.newaxis, :, np.newaxis]
    saturation = np.clip(grey + 0.5 * (PIXELS - grey), 0, 1)
    np.testing.assert_allclose(adjust_saturation(jnp.asarray(PIXELS), jnp.float32(0.5)), saturation, atol=8 * EPS)


@pytest.mark.parametrize("adjust", [adjust_brightness, adjust_contrast, adjust_saturation])
def test_a_factor_of_one_changes_nothing(adjust):
    np.testing.assert_array_equal(adjust(jnp.asarray(IMAGE), jnp.float32(1)), IMAGE)


def test_a_factor_of_zero_leaves_black_the_mean_grey_and_greys():
    image, zero = jnp.asarray(IMAGE), jnp.float32(0)
    np.testing.assert_array_equal(adjust_brightness(image, zero), 0 * IMAGE)
    grey = (IMAGE.astype(np.float64) * [0.2989, 0.587, 0.114]).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(adjust_contrast(image, zero), np.full(IMAGE.shape, grey.mean()), atol=16 * EPS)
    np.testing.assert_allclose(adjust_saturation(image, zero), grey.repeat(3, axis=2), atol=8 * EPS)


def test_grey_images_have_no_saturation():
    grey = jnp.asarray(IMAGE[:, :, :1])
    np.testing.assert_allclose(adjust_saturation(grey, jnp.float32(0.3)), grey, atol=2 * EPS)


@pytest.mark.parametrize("adjust", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_colours_are_torchvisions(adjust, factor):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    ours = globals()[f"adjust_{adjust}"](jnp.asarray(IMAGE), jnp.float32(factor))
    theirs = getattr(functional, f"adjust_{adjust}")(torch.from_numpy(IMAGE.transpose(2, 0, 1).copy()), factor)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=16 * EPS)


def test_jitter_draws_its_factors_evenly():
    images = np.full((4000, 1, 1, 1), 100, np.uint8)
    lit = np.asarray(augment(keys(0, 4000), images, only(brightness=0.5))).ravel() / 100
    assert lit.min() < 0.51 and lit.max() > 1.49
    assert lit.mean() == pytest.approx(1, abs=5 / np.sqrt(12 * 4000))
    assert lit.std() == pytest.approx(1 / np.sqrt(12), rel=5 / np.sqrt(4000))


def factors_of(changed):
    """What contrast and saturation, alone or together, multiplied: distances to the mean grey, and to a pixel's grey.

    The image is of two pixels, of greys 0.3 and 0.6, whose red exceeds their grey by 0.05 (blue makes up for it).
    """
    grey = changed @ np.float64([0.2989, 0.587, 0.114])
    return (grey[:, 1] - grey[:, 0]) / 0.3, (changed[:, :, 0] - grey).mean(axis=1) / 0.05


def two_pixels(count):
    blue = -0.05 * 0.2989 / 0.114
    image = np.float64([[0.3, 0.3, 0.3], [0.6, 0.6, 0.6]]) + np.float64([0.05, 0, blue])
    return np.tile(np.uint8(np.round(image * 255)), (count, 1, 1, 1))


def test_contrast_and_saturation_are_drawn_alone_and_apart():
    """Each moves its own distance alone, over all of its range; together, their factors are uncorrelated."""
    count = 3000
    images = two_pixels(count)
    ways = {
        "both": {"contrast": 0.5, "saturation": 0.5},
        "contrast": {"contrast": 0.5},
        "saturation": {"saturation": 0.5},
    }
    found = {
        name: factors_of(np.asarray(augment(keys(0, count), images, only(**how)))[:, 0] / 255)
        for name, how in ways.items()
    }
    rounding = 2 * 0.5 / 255 / 0.05  # of two values to whole numbers, at the smaller distance
    contrast, scaled_by_it = found["contrast"]
    greys, saturation = found["saturation"]
    assert contrast.min() < 0.52 and contrast.max() > 1.48 and saturation.min() < 0.6 and saturation.max() > 1.4
    for factor in (contrast, saturation):
        assert factor.mean() == pytest.approx(1, abs=5 / np.sqrt(12 * count) + rounding)
        assert factor.std() == pytest.approx(1 / np.sqrt(12), abs=5 / np.sqrt(count) / np.sqrt(12) + rounding)
    assert np.abs(greys - 1).max() < rounding  # saturation leaves greys
    np.testing.assert_allclose(scaled_by_it, contrast, atol=2 * rounding)  # contrast scales all distances
    contrast, product = found["both"]
    assert abs(np.corrcoef(contrast, product / contrast)[0, 1]) < 5 / np.sqrt(count) + rounding


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1.1}, r"flip must be in \[0, 1\], not 1.1"),
        ({"contrast": -0.1}, r"contrast must be in \[0, 1\], not -0.1"),
        ({"smallest_area": 0.0}, r"smallest_area must be in \(0, 1\], not 0.0"),
        ({"smallest_area": 1.1}, r"smallest_area must be in \(0, 1\], not 1.1"),
        ({"widest_ratio": 0.9}, r"widest_ratio must be in \[1, ∞\), not 0.9"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**change)
