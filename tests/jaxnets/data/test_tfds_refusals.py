"""Prepared sets that are refused, in one sentence."""

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxnets.data import DataError, load
from jaxnets.naming import quoted

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
def test_a_set_that_is_no_image_classification_is_refused(shapes, tmp_path, features, row, message):
    rows = [row | ({"image": shapes.encode(shapes.RGB[0])} if "image" in features else {})]
    shapes.prepare(tmp_path, {"train": rows, "test": rows}, features=features)
    with pytest.raises(DataError, match=message):
        load("tfds:shapes", data_dir=tmp_path)


def test_a_set_prepared_as_tfrecord_says_how_to_prepare_it_again(shapes, tmp_path):
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB)})
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


def test_an_unknown_name_gives_the_nearest_known_or_prepared(shapes, tmp_path):
    with pytest.raises(DataError, match=r"tfds:cifar01: no such set .*; did you mean 'cifar10'\?"):
        load("tfds:cifar01", data_dir=tmp_path)
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB)})
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
def test_no_module_that_a_set_names_is_imported(shapes, tmp_path, monkeypatch, way, of_tfds):
    """Neither one that lies in the set's folder nor one that is installed."""
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB)})
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
def test_a_damaged_or_missing_shard_is_refused(shapes, tmp_path, damage):
    shapes.prepare(tmp_path, {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB)})
    damage(next(tmp_path.rglob("shapes-train*")))
    with pytest.raises(DataError, match="tfds:shapes, train split: example 0 cannot be read"):
        load("tfds:shapes", data_dir=tmp_path)


def test_a_damaged_image_is_refused_by_its_place(shapes, tmp_path):
    rows = [{"image": shapes.encode(shapes.RGB[0])[:-30], "label": 0}]
    shapes.prepare(tmp_path, {"train": rows, "test": rows})
    with pytest.raises(DataError, match="tfds:shapes, train split: example 0 is damaged"):
        load("tfds:shapes", data_dir=tmp_path)
