"""Folders of small pictures, prepared sets, and a cache of its own for each test."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import threads


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "jaxnets" / "pictures"


class Pets:
    SIZE = 8

    def __init__(self, root):
        self.root = root

    def write(self, name, value, size=(SIZE, SIZE)):
        """A picture whose every pixel is `value`, so that it can be told by any of them."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (value, 255 - value, 7)).save(path)

    def make(self, splits=("train", "test"), classes=("cat", "dog"), per_class=3, start=0):
        """`value` counts the files in the order of split, class and name."""
        for value, parts in enumerate(itertools.product(splits, classes, range(per_class)), start):
            self.write("{}/{}/{}.png".format(*parts), value)
        return f"folder:{self.root}"

    def values(self, split):
        return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def pets(tmp_path):
    return Pets(tmp_path / "pets")


@pytest.fixture
def broken_decoder(monkeypatch):
    """Called, it lets no picture be decoded from then on."""

    def decode(*args, **options):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(threads, "decode", decode)


class Shapes:
    """Sets that TFDS itself prepares, as ArrayRecord and without TensorFlow.

    TFDS asks TensorFlow for an encoder only when it is given an image as an array; bytes that are already PNG it stores
    as they are.
    """

    GREY = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 1), np.uint8)
    RGB = np.random.default_rng(1).integers(0, 256, (6, 5, 4, 3), np.uint8)

    @staticmethod
    def encode(image, kind="PNG", **options):
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image.squeeze())
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    @classmethod
    def examples(cls, images, **more):
        return [{"image": cls.encode(image), "label": index % 3, **more} for index, image in enumerate(images)]

    @staticmethod
    def prepare(folder, splits, *, features=None, name="shapes", image_shape=(None, None, 3), version="3.0.1"):
        """Prepares a set of these splits in that folder; what is on disk is what any `tfds build` leaves."""
        import tensorflow_datasets as tfds  # slow to import

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


@pytest.fixture(scope="session")
def shapes():
    return Shapes()


@pytest.fixture(scope="session")
def prepared(shapes, tmp_path_factory):
    """The folder of such a set, which is only to be read or copied."""
    splits = {"train": shapes.examples(shapes.RGB), "test": shapes.examples(shapes.RGB[:2])}
    return shapes.prepare(tmp_path_factory.mktemp("prepared"), splits)
