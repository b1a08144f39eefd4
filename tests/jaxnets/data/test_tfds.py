"""Each set here is prepared by TFDS itself, as ArrayRecord and without TensorFlow.

TFDS asks TensorFlow for an encoder only when it is given an image as an array; bytes that are already PNG it stores
as they are.
"""

import io
import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnets.data import DataError, load, threads
from jaxnets.data.streaming import LazyPictures, Stream
from jaxnets.data.tfds import find_tfds
from jaxnets.naming import quoted

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4, 1), np.uint8)
RGB = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)


def encode(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.squeeze())
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def examples(images, **more):
    return [{"image": encode(image), "label": index % 3, **more} for index, image in enumerate(images)]


def prepare(folder, splits, *, features=None, name="shapes", image_shape=(None, None, 3), version="3.0.1"):
    """Prepares a set of these splits in that folder; what is on disk is what any `tfds build` leaves."""
    features = features or {
        "image": tfds.features.Image(shape=image_shape),
        "label": tfds.features.ClassLabel(names=["circle", "square", "star"]),
    }
    set_name = name

    class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = (
            "shapes"  # for a dotted one TFDS imports importlib_resources, which it does not ask to be installed
        )
        name = set_name
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Shapes(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"), {"train": examples(RGB), "test": examples(RGB)})


def in_order(split, images):
    """The split's images and labels in the order of `images`: TFDS shuffles what it prepares."""
    order = [next(i for i, stored in enumerate(split.images) if np.array_equal(stored, image)) for image in images]
    return split.images[order], split.labels[order]


@pytest.mark.parametrize(("images", "channels"), [(GREY, 1), (RGB, 3)])
def test_a_prepared_set_comes_back_pixel_by_pixel_without_tensorflow(tmp_path, images, channels):
    prepare(tmp_path, {"train": examples(images), "test": examples(images[:2])}, image_shape=(5, 4, channels))
    dataset = load("tfds:shapes", data_dir=tmp_path)
    assert dataset.name == "tfds:shapes" and dataset.classes == ("circle", "square", "star")
    for split, expected in ((dataset.train, images), (dataset.test, images[:2])):
        assert split.images.shape == expected.shape
        stored_images, stored_labels = in_order(split, expected)
        np.testing.assert_array_equal(stored_images, expected)
        np.testing.assert_array_equal(stored_labels, np.arange(len(expected)) % 3)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["shapes:3.0.1", "shapes:3.*.*"])
def test_a_version_may_be_named_and_the_folder_come_from_the_environment(tmp_path, monkeypatch, name):
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB)})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load(f"tfds:{name}").train.labels) == 6


def test_a_set_that_tfds_itself_defines(tmp_path):
    features = {"image": tfds.features.Image(shape=(5, 4, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    rows = [{"image": encode(image), "label": 9 - index} for index, image in enumerate(GREY)]
    prepare(tmp_path, {"train": rows, "test": rows[:3]}, features=features, name="mnist")
    assert find_tfds("mnist", data_dir=tmp_path).classes == tuple("0123456789")
    dataset = load("tfds:mnist", data_dir=tmp_path)
    assert dataset.classes == tuple("456789"), "those that there are examples of"
    np.testing.assert_array_equal(in_order(dataset.train, GREY)[1], np.int32([5, 4, 3, 2, 1, 0]), strict=True)
    assert dataset.notes[-2:] == (
        "Left out, as training has no picture of them: the classes 0, 1, 2, 3.",
        "The test split has no picture of the classes 4, 5, 6.",
    )


def test_a_label_that_equals_the_number_of_classes_is_refused(tmp_path):
    features = {"image": tfds.features.Image(shape=(5, 4, 3)), "label": tfds.features.ClassLabel(num_classes=4)}
    rows = [{"image": encode(RGB[0]), "label": 3}]
    prepare(tmp_path, {"train": rows, "test": rows}, features=features)
    described = next(tmp_path.rglob("features.json"))
    described.write_text(described.read_text().replace('"numClasses": "4"', '"numClasses": "3"'))
    with pytest.raises(DataError, match="train split: example 0 has the label 3, outside 0 to 2"):
        load("tfds:shapes", data_dir=tmp_path)


def test_validation_stands_in_for_a_missing_test_split_only(tmp_path):
    three = {"train": examples(RGB), "validation": examples(RGB[:2]), "test": examples(RGB[:1])}
    assert len(load("tfds:shapes", data_dir=prepare(tmp_path / "a", three)).test.labels) == 1
    del three["test"]
    assert len(load("tfds:shapes", data_dir=prepare(tmp_path / "b", three)).test.labels) == 2
    del three["validation"]
    with pytest.raises(DataError, match="tfds:shapes: has the splits train but needs train and one of test and "):
        load("tfds:shapes", data_dir=prepare(tmp_path / "c", three))


def test_palette_one_bit_and_jpeg_images_are_decoded_as_they_look(tmp_path):
    checker = np.uint8(255) * (np.indices((5, 4)).sum(0) % 2).astype(np.uint8)
    red = np.zeros((5, 4, 3), np.uint8) + np.uint8([200, 0, 0])
    rows = [
        {"image": encode(Image.fromarray(checker).convert("1")), "label": 0},
        {"image": encode(Image.fromarray(red).convert("P", palette=Image.Palette.ADAPTIVE)), "label": 1},
        {"image": encode(red, "JPEG", quality=100), "label": 2},
    ]
    train = load("tfds:shapes", data_dir=prepare(tmp_path, {"train": rows, "test": rows})).train
    images = train.images[np.argsort(train.labels)].astype(int)
    np.testing.assert_array_equal(images[0], np.repeat(checker[..., np.newaxis], 3, axis=-1))
    np.testing.assert_array_equal(images[1], red)
    np.testing.assert_allclose(images[2], red, atol=2)


def test_other_features_are_left_alone(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(5, 4, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
        "mask": tfds.features.Image(shape=(None, None, 1)),
        "boxes": tfds.features.Sequence({"corner": tfds.features.Scalar(np.int64)}),
        "caption": tfds.features.Text(),
    }
    rows = examples(RGB, mask=b"not an image", boxes=[{"corner": 1}, {"corner": 2}], caption="two")
    dataset = load("tfds:shapes", data_dir=prepare(tmp_path, {"train": rows, "test": rows}, features=features))
    np.testing.assert_array_equal(in_order(dataset.train, RGB)[0], RGB)


def test_images_of_differing_sizes_are_refused(tmp_path):
    rows = examples([RGB[0], RGB[1], RGB[2, :3]])
    prepare(tmp_path, {"train": rows, "test": rows})
    with pytest.raises(
        DataError, match=r"shapes, train split: example \d has another size than the first, .*\(H, W, C\)"
    ):
        load("tfds:shapes", data_dir=tmp_path)


def test_images_of_differing_sizes_are_brought_to_one_that_is_given(tmp_path):
    left_dark = np.uint8([[0, 200]]).repeat(8, axis=0).repeat(8, axis=1)  # 8×16
    rows = examples([left_dark[..., np.newaxis].repeat(3, axis=2), RGB[0], RGB[1, :3]])
    prepare(tmp_path, {"train": rows, "test": rows})
    train = load("tfds:shapes", data_dir=tmp_path, size=4).train
    assert train.images.shape == (3, 4, 4, 3)
    # Antialiased: an output pixel weights the eight input pixels under its tent of ±4 by distance.
    tent = 1 - np.abs(np.arange(16) + 0.5 - np.float64([[6], [10]])) / 4
    middle = 200 * np.clip(tent, 0, None)[:, 8:].sum(axis=1) / np.clip(tent, 0, None).sum(axis=1)
    pixels = train.images[list(train.labels).index(0), :, :, 0]
    np.testing.assert_allclose(pixels, np.tile([0, *middle, 200], (4, 1)), atol=1)
    with pytest.raises(DataError, match="tfds:shapes: size is 0; give a height and width of at least 1"):
        load("tfds:shapes", data_dir=tmp_path, size=0)


def test_the_label_of_celeb_a_is_its_attribute_male(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(218, 178, 3)),
        "landmarks": {"nose_x": tfds.features.Scalar(np.int64)},
        "attributes": {name: tfds.features.Tensor(shape=(), dtype=np.bool_) for name in ("Bald", "Male")},
    }
    men = [False, True, True, False, True]
    images = [np.full((218, 178, 3), 40 * index, np.uint8) for index in range(len(men))]
    rows = [
        {
            "image": encode(image, "JPEG"),
            "landmarks": {"nose_x": 0},
            "attributes": {"Bald": not is_male, "Male": is_male},
        }
        for image, is_male in zip(images, men, strict=True)
    ]
    splits = {"train": rows, "validation": rows[:1], "test": rows[:2]}
    prepare(tmp_path, splits, features=features, name="celeb_a", version="2.1.0")
    for size, shape in ((None, (218, 178)), (64, (64, 64))):
        dataset = load("tfds:celeb_a", data_dir=tmp_path, size=size)
        assert dataset.classes == ("female", "male") and len(dataset.test.labels) == 2
        assert dataset.train.images.shape == (5, *shape, 3)
        which = np.round(dataset.train.images.mean(axis=(1, 2, 3)) / 40).astype(int)
        assert sorted(which) == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(dataset.train.labels, np.int32(men)[which], strict=True)


def test_pictures_are_decoded_once_and_mapped_from_then_on(tmp_path, monkeypatch):
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB[:2])})
    seen = []
    first = load("tfds:shapes", data_dir=tmp_path, size=6, on_progress=lambda *done: seen.append(done))
    assert seen == [(done, 8) for done in range(1, 9)]
    own = load("tfds:shapes", data_dir=tmp_path)
    monkeypatch.setattr(threads, "decode", None)  # decoded again, it would be called
    second = load("tfds:shapes", data_dir=tmp_path, size=6, on_progress=lambda *done: seen.append(done))
    assert len(seen) == 8 and second.fingerprint() == first.fingerprint()
    assert isinstance(second.train.images.base, np.memmap) and own.train.images.shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(second.train.labels, first.train.labels)


def test_a_set_prepared_anew_is_decoded_anew(tmp_path):
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB)})
    before = load("tfds:shapes", data_dir=tmp_path)
    shutil.rmtree(tmp_path / "shapes")
    prepare(tmp_path, {"train": examples(RGB[:4]), "test": examples(RGB)})
    after = load("tfds:shapes", data_dir=tmp_path)
    assert (len(before.train.labels), len(after.train.labels)) == (6, 4)


def test_damaged_pictures_may_be_left_out_and_labels_stay_theirs(tmp_path):
    rows = [*examples(RGB), {"image": b"no picture", "label": 2}]
    prepare(tmp_path, {"train": rows, "test": examples(GREY.repeat(3, axis=3))})
    with pytest.raises(DataError, match=r"1 of 13 pictures cannot be read: tfds:shapes, train .* is no "):
        load("tfds:shapes", data_dir=tmp_path, size=5)
    for _ in range(2):
        dataset = load("tfds:shapes", data_dir=tmp_path, size=5, skip_unreadable=True)
        assert sorted(dataset.train.labels) == [0, 0, 1, 1, 2, 2] and len(dataset.test.labels) == 6
        assert len(dataset.notes) == 1 and dataset.notes[0].startswith("Left out, as 1 of 13 pictures cannot be read")


def test_a_set_streams_with_the_pixels_and_labels_that_it_loads_with(tmp_path):
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB[:2])})
    whole, found = load("tfds:shapes", data_dir=tmp_path, size=7), find_tfds("shapes", data_dir=tmp_path)
    batches = list(Stream(found.train, size=7, batch_size=4))
    assert [len(batch.labels) for batch in batches] == [4, 2]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), whole.train.images)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), whole.train.labels)
    np.testing.assert_array_equal(LazyPictures(found.test, 7)[np.arange(2)], whole.test.images)
    np.testing.assert_array_equal([found.test[i].label for i in range(2)], whole.test.labels)
    assert found.classes == whole.classes


LABEL, IMAGE = tfds.features.ClassLabel(num_classes=3), tfds.features.Image(shape=(None, None, 3))


@pytest.mark.parametrize(
    ("features", "row", "message"),
    [
        ({"image": IMAGE}, {}, "'label' is None but must be a ClassLabel"),
        ({"image": IMAGE, "label": tfds.features.Scalar(np.int64)}, {"label": 1}, "'label' is Scalar.* ClassLabel"),
        ({"label": LABEL}, {"label": 1}, "'image' is None but must be an Image of uint8"),
        (
            {"image": tfds.features.Image(shape=(5, 4, 4)), "label": LABEL},
            {"label": 1},
            r"'image' is Image\(shape=\(5, 4, 4",
        ),
        (
            {"image": tfds.features.Image(shape=(5, 4, 1), dtype=np.uint16), "label": LABEL},
            {"label": 1},
            "of uint8 with",
        ),
        ({"image": IMAGE, "label": LABEL}, {"label": -1}, "train split: example 0 has the label -1, outside 0 to 2"),
    ],
)
def test_a_set_that_is_no_image_classification_is_refused(tmp_path, features, row, message):
    rows = [row | ({"image": encode(RGB[0])} if "image" in features else {})]
    prepare(tmp_path, {"train": rows, "test": rows}, features=features)
    with pytest.raises(DataError, match=message):
        load("tfds:shapes", data_dir=tmp_path)


def test_a_set_prepared_as_tfrecord_says_how_to_prepare_it_again(tmp_path):
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB)})
    folder = tmp_path / "shapes" / "3.0.1"
    for file in folder.glob("*.array_record*"):  # only what the metadata says is looked at before the refusal
        file.rename(folder / file.name.replace("array_record", "tfrecord"))
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=f"prepared as tfrecord in {folder}, without random access; run `tfds build"):
        load("tfds:shapes", data_dir=tmp_path)


def test_a_known_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path, caplog):
    with pytest.raises(DataError, match=r"not prepared in .*; run `tfds build cifar10 --file_format=array_record`"):
        load("tfds:cifar10", data_dir=tmp_path)
    assert not caplog.records, "one sentence says it all"
    assert not list(tmp_path.iterdir()), "loading must not write to the folder of prepared sets"


def test_an_unknown_name_gives_the_nearest_known_or_prepared(tmp_path):
    with pytest.raises(DataError, match=r"tfds:cifar01: no such set .*; did you mean 'cifar10'\?"):
        load("tfds:cifar01", data_dir=tmp_path)
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB)})
    for name in ("shape", "shapes:9.9.9", "shapes/config"):
        with pytest.raises(DataError, match=r"did you mean 'shapes'\?"):
            load(f"tfds:{name}", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist:9.9.9", "only: 3.0.1"),
        ("mnist/large", "BuilderConfig large not found"),
        ("my set", "Parsing builder name"),
        ("two\nlines\x1b[2J", "Parsing builder name"),
    ],
)
def test_a_name_that_tfds_refuses_is_passed_on_in_one_sentence(tmp_path, name, message):
    with pytest.raises(DataError, match=f"TensorFlow Datasets refuses it .*{message}") as refusal:
        load(f"tfds:{name}", data_dir=tmp_path)
    assert str(refusal.value).startswith(f"tfds:{quoted(name)}: ") and str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "name", ["huggingface:mnist", "kaggle:pets/cats", "shapes/data_dir=elsewhere", "shapes/config=..", "shapes/.."]
)
def test_nothing_is_fetched_and_no_other_place_is_looked_at(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tfds, "builder", None)  # called, it would import a downloader
    with pytest.raises(DataError, match=r"is not of the form NAME, NAME/CONFIG or NAME:VERSION; .* not downloaded"):
        load(f"tfds:{name}", data_dir=tmp_path)


@pytest.mark.parametrize("way", ["pythonClassName", "python_class_name", "type", "within a string"])
@pytest.mark.parametrize("of_tfds", [False, True])
def test_no_module_that_a_set_names_is_imported(tmp_path, monkeypatch, way, of_tfds):
    """Neither one that lies in the set's folder nor one that is installed."""
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB)})
    (tmp_path / "feature_of_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    module = "tensorflow_datasets.scripts.cli.build" if of_tfds else "feature_of_mine"
    sys.modules.pop(module, None)
    described = next(tmp_path.rglob("features.json"))
    features = json.loads(described.read_text())
    image = features["featuresDict"]["features"]["image"]
    if way == "within a string":
        image["jsonFeature"] = {"json": json.dumps({"feature": {"type": f"{module}.Feature", "content": "{}"}})}
    else:
        del image["pythonClassName"]
        image[way] = f"{module}.Feature"
    described.write_text(json.dumps(features))
    with pytest.raises(DataError, match=rf"features.json: names the Python class {module}\.Feature, whose "):
        load("tfds:shapes", data_dir=tmp_path)
    assert module not in sys.modules and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"[" * 10**5, b"\xff\xfe", b'{"splits": 7}', b'{"type": "a.b"}', b"7"]
)
def test_a_damaged_description_is_refused_in_one_sentence(tmp_path, prepared, file, content):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    next(tmp_path.rglob(file)).write_bytes(content)
    with pytest.raises(DataError, match=r"^(tfds:shapes|.*features\.json): ") as refusal:
        load("tfds:shapes", data_dir=tmp_path)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    "damage", [lambda shard: shard.unlink(), lambda shard: shard.write_bytes(shard.read_bytes()[:99])]
)
def test_a_damaged_or_missing_shard_is_refused(tmp_path, damage):
    prepare(tmp_path, {"train": examples(RGB), "test": examples(RGB)})
    damage(next(tmp_path.rglob("shapes-train*")))
    with pytest.raises(DataError, match="tfds:shapes, train split: example 0 cannot be read"):
        load("tfds:shapes", data_dir=tmp_path)


def test_a_damaged_image_is_refused_by_its_place(tmp_path):
    rows = [{"image": encode(RGB[0])[:-30], "label": 0}]
    prepare(tmp_path, {"train": rows, "test": rows})
    with pytest.raises(DataError, match="tfds:shapes, train split: example 0 is damaged"):
        load("tfds:shapes", data_dir=tmp_path)
