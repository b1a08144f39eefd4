"""What prepared sets are read as; `test_tfds_refusals.py` has what is refused."""

import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnets.data import DataError, load, threads
from jaxnets.data.streaming import LazyPictures, Stream
from jaxnets.data.tfds import find_tfds


def in_order(split, images):
    """The split's images and labels in the order of `images`: TFDS shuffles what it prepares."""
    order = [next(i for i, stored in enumerate(split.images) if np.array_equal(stored, image)) for image in images]
    return split.images[order], split.labels[order]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prepared_set_comes_back_pixel_by_pixel_without_tensorflow(shapes, tmp_path, channels):
    images = shapes.GREY if channels == 1 else shapes.RGB
    splits = {"train": shapes.examples(images), "test": shapes.examples(images[:2])}
    shapes.prepare(tmp_path, splits, image_shape=(5, 4, channels))
    dataset = load("tfds:shapes", data_dir=tmp_path)
    assert dataset.name == "tfds:shapes" and dataset.classes == ("circle", "square", "star")
    for split, expected in ((dataset.train, images), (dataset.test, images[:2])):
        assert split.images.shape == expected.shape
        stored_images, stored_labels = in_order(split, expected)
        np.testing.assert_array_equal(stored_images, expected)
        np.testing.assert_array_equal(stored_labels, np.arange(len(expected)) % 3)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["shapes:3.0.1", "shapes:3.*.*"])
def test_a_version_may_be_named_and_the_folder_come_from_the_environment(shapes, tmp_path, monkeypatch, name):
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB)})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load(f"tfds:{name}").train.labels) == 6


def test_a_set_that_tfds_itself_defines(shapes, tmp_path):
    features = {"image": tfds.features.Image(shape=(5, 4, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    rows = [{"image": shapes.encode(image), "label": 9 - index} for index, image in enumerate(shapes.GREY)]
    shapes.prepare(tmp_path, {"train": rows, "test": rows[:3]}, features=features, name="mnist")
    assert find_tfds("mnist", data_dir=tmp_path).classes == tuple("0123456789")
    dataset = load("tfds:mnist", data_dir=tmp_path)
    assert dataset.classes == tuple("456789"), "those that there are shapes.examples of"
    np.testing.assert_array_equal(in_order(dataset.train, shapes.GREY)[1], np.int32([5, 4, 3, 2, 1, 0]), strict=True)
    assert dataset.notes[-2:] == (
        "Left out 4 classes without a training picture (0, 1, 2, 3).",
        "The test split has no picture of 3 classes (4, 5, 6).",
    )


def test_a_label_that_equals_the_number_of_classes_is_refused(shapes, tmp_path):
    features = {"image": tfds.features.Image(shape=(5, 4, 3)), "label": tfds.features.ClassLabel(num_classes=4)}
    rows = [{"image": shapes.encode(shapes.RGB[0]), "label": 3}]
    shapes.prepare(tmp_path, {"train": rows, "test": rows}, features=features)
    described = next(tmp_path.rglob("features.json"))
    described.write_text(described.read_text().replace('"numClasses": "4"', '"numClasses": "3"'))
    with pytest.raises(DataError, match="train split: example 0 has the label 3, outside 0 to 2"):
        load("tfds:shapes", data_dir=tmp_path)


def test_kept_pictures_do_not_outlive_their_classes(shapes, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    load("tfds:shapes", data_dir=tmp_path)
    (names,) = tmp_path.rglob("label.labels.txt")
    names.write_text("".join(names.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match=r"example [0-9]+ has the label 2, outside 0 to 1"):
        load("tfds:shapes", data_dir=tmp_path)


def test_validation_stands_in_for_a_missing_test_split_only(shapes, tmp_path):
    three = {
        "train": shapes.examples(shapes.RGB),
        "validation": shapes.examples(shapes.RGB[:2]),
        "test": shapes.examples(shapes.RGB[:1]),
    }
    assert len(load("tfds:shapes", data_dir=shapes.prepare(tmp_path / "a", three)).test.labels) == 1
    del three["test"]
    assert len(load("tfds:shapes", data_dir=shapes.prepare(tmp_path / "b", three)).test.labels) == 2
    del three["validation"]
    with pytest.raises(DataError, match="tfds:shapes: has the splits train but needs train and one of test and "):
        load("tfds:shapes", data_dir=shapes.prepare(tmp_path / "c", three))


def test_palette_one_bit_and_jpeg_images_are_decoded_as_they_look(shapes, tmp_path):
    checker = np.uint8(255) * (np.indices((5, 4)).sum(0) % 2).astype(np.uint8)
    red = np.zeros((5, 4, 3), np.uint8) + np.uint8([200, 0, 0])
    rows = [
        {"image": shapes.encode(Image.fromarray(checker).convert("1")), "label": 0},
        {"image": shapes.encode(Image.fromarray(red).convert("P", palette=Image.Palette.ADAPTIVE)), "label": 1},
        {"image": shapes.encode(red, "JPEG", quality=100), "label": 2},
    ]
    train = load("tfds:shapes", data_dir=shapes.prepare(tmp_path, {"train": rows, "test": rows})).train
    images = train.images[np.argsort(train.labels)].astype(int)
    np.testing.assert_array_equal(images[0], np.repeat(checker[..., np.newaxis], 3, axis=-1))
    np.testing.assert_array_equal(images[1], red)
    np.testing.assert_allclose(images[2], red, atol=2)


def test_other_features_are_left_alone(shapes, tmp_path):
    features = {
        "image": tfds.features.Image(shape=(5, 4, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "boxes": tfds.features.Sequence({"corner": tfds.features.Scalar(np.int64)}),
        "caption": tfds.features.Text(),
    }
    rows = shapes.examples(shapes.RGB, mask=b"not an image", boxes=[{"corner": 1}, {"corner": 2}], caption="two")
    dataset = load("tfds:shapes", data_dir=shapes.prepare(tmp_path, {"train": rows, "test": rows}, features=features))
    np.testing.assert_array_equal(in_order(dataset.train, shapes.RGB)[0], shapes.RGB)


def test_images_of_differing_sizes_are_refused(shapes, tmp_path):
    rows = shapes.examples([shapes.RGB[0], shapes.RGB[1], shapes.RGB[2, :3]])
    shapes.prepare(tmp_path, {"train": rows, "test": rows})
    with pytest.raises(
        DataError, match=r"shapes, train split: example \d has another size than the first, .*\(H, W, C\)"
    ):
        load("tfds:shapes", data_dir=tmp_path)


def test_images_of_differing_sizes_are_brought_to_one_that_is_given(shapes, tmp_path):
    left_dark = np.uint8([[0, 200]]).repeat(8, axis=0).repeat(8, axis=1)  # 8×16
    rows = shapes.examples([left_dark[..., np.newaxis].repeat(3, axis=2), shapes.RGB[0], shapes.RGB[1, :3]])
    shapes.prepare(tmp_path, {"train": rows, "test": rows})
    train = load("tfds:shapes", data_dir=tmp_path, size=4).train
    assert train.images.shape == (3, 4, 4, 3)
    # Antialiased: an output pixel weights the eight input pixels under its tent of ±4 by distance.
    tent = 1 - np.abs(np.arange(16) + 0.5 - np.float64([[6], [10]])) / 4
    middle = 200 * np.clip(tent, 0, None)[:, 8:].sum(axis=1) / np.clip(tent, 0, None).sum(axis=1)
    pixels = train.images[list(train.labels).index(0), :, :, 0]
    np.testing.assert_allclose(pixels, np.tile([0, *middle, 200], (4, 1)), atol=1)
    with pytest.raises(DataError, match="tfds:shapes: size is 0; give a height and width of at least 1"):
        load("tfds:shapes", data_dir=tmp_path, size=0)


def test_the_label_of_celeb_a_is_its_attribute_male(shapes, tmp_path):
    features = {
        "image": tfds.features.Image(shape=(218, 178, 3)),
        "landmarks": {"nose_x": tfds.features.Scalar(np.int64)},
        "attributes": {name: tfds.features.Tensor(shape=(), dtype=np.bool_) for name in ("Bald", "Male")},
    }
    men = [False, True, True, False, True]
    images = [np.full((218, 178, 3), 40 * index, np.uint8) for index in range(len(men))]
    rows = [
        {
            "image": shapes.encode(image, "JPEG"),
            "landmarks": {"nose_x": 0},
            "attributes": {"Bald": not is_male, "Male": is_male},
        }
        for image, is_male in zip(images, men, strict=True)
    ]
    splits = {"train": rows, "validation": rows[:1], "test": rows[:2]}
    shapes.prepare(tmp_path, splits, features=features, name="celeb_a", version="2.1.0")
    for size, shape in ((None, (218, 178)), (64, (64, 64))):
        dataset = load("tfds:celeb_a", data_dir=tmp_path, size=size)
        assert dataset.classes == ("female", "male") and len(dataset.test.labels) == 2
        assert dataset.train.images.shape == (5, *shape, 3)
        which = np.round(dataset.train.images.mean(axis=(1, 2, 3)) / 40).astype(int)
        assert sorted(which) == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(dataset.train.labels, np.int32(men)[which], strict=True)


def test_pictures_are_decoded_once_and_mapped_from_then_on(shapes, tmp_path, monkeypatch):
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB[:2])})
    seen = []
    first = load("tfds:shapes", data_dir=tmp_path, size=6, on_progress=lambda *done: seen.append(done))
    assert seen == [(done, 8) for done in range(1, 9)]
    own = load("tfds:shapes", data_dir=tmp_path)
    monkeypatch.setattr(threads, "decode", None)  # decoded again, it would be called
    second = load("tfds:shapes", data_dir=tmp_path, size=6, on_progress=lambda *done: seen.append(done))
    assert len(seen) == 8 and second.fingerprint() == first.fingerprint()
    assert isinstance(second.train.images.base, np.memmap) and own.train.images.shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(second.train.labels, first.train.labels)


def test_a_set_prepared_anew_is_decoded_anew(shapes, tmp_path):
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB)})
    before = load("tfds:shapes", data_dir=tmp_path)
    shutil.rmtree(tmp_path / "shapes")
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB[:4]), "test": shapes.examples(shapes.RGB)})
    after = load("tfds:shapes", data_dir=tmp_path)
    assert (len(before.train.labels), len(after.train.labels)) == (6, 4)


def test_damaged_pictures_may_be_left_out_and_labels_stay_theirs(shapes, tmp_path):
    rows = [*shapes.examples(shapes.RGB), {"image": b"no picture", "label": 2}]
    shapes.prepare(tmp_path, {"train": rows, "test": shapes.examples(shapes.GREY.repeat(3, axis=3))})
    with pytest.raises(DataError, match=r"1 of 13 pictures cannot be read: tfds:shapes, train .* is no "):
        load("tfds:shapes", data_dir=tmp_path, size=5)
    for _ in range(2):
        dataset = load("tfds:shapes", data_dir=tmp_path, size=5, skip_unreadable=True)
        assert sorted(dataset.train.labels) == [0, 0, 1, 1, 2, 2] and len(dataset.test.labels) == 6
        assert len(dataset.notes) == 1 and dataset.notes[0].startswith("Left out, as 1 of 13 pictures cannot be read")


def test_a_set_streams_with_the_pixels_and_labels_that_it_loads_with(shapes, tmp_path):
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB[:2])})
    whole, found = load("tfds:shapes", data_dir=tmp_path, size=7), find_tfds("shapes", data_dir=tmp_path)
    batches = list(Stream(found.train, size=7, batch_size=4))
    assert [len(batch.labels) for batch in batches] == [4, 2]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), whole.train.images)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), whole.train.labels)
    np.testing.assert_array_equal(LazyPictures(found.test, 7)[np.arange(2)], whole.test.images)
    np.testing.assert_array_equal([found.test[i].label for i in range(2)], whole.test.labels)
    assert found.classes == whole.classes
