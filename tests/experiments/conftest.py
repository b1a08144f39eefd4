import gzip
import io
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnets import load


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder in MNIST's format: 160 of its training and 100 of its test images, so that an epoch is a few steps."""
    folder = tmp_path_factory.mktemp("digits")
    mnist = load("mnist")
    for name, split, count in (("train", mnist.train, 160), ("t10k", mnist.test, 100)):
        images, labels = np.asarray(split.images[:count]), np.asarray(split.labels[:count], np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">HBBIII", 0, 8, 3, count, 28, 28) + images.tobytes())
        )
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, count) + labels.tobytes())
    return folder


@pytest.fixture(scope="session")
def celeb_a(tmp_path_factory):
    """A prepared set of that name, of which brightness tells the attribute `Male`; the folder that it is in."""
    is_male = {"train": [False, True] * 7, "validation": [True], "test": [True, False] * 3}

    class CelebA(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "celeb_a"  # see tests/jaxnets/data/test_tfds.py
        name = "celeb_a"
        VERSION = tfds.core.Version("2.1.0")

        def _info(self):
            attributes = {name: tfds.features.Tensor(shape=(), dtype=np.bool_) for name in ("Bald", "Male")}
            features = {"image": tfds.features.Image(shape=(218, 178, 3)), "attributes": attributes}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(men) for split, men in is_male.items()}

        def _generate_examples(self, men):
            for number, man in enumerate(men):
                file = io.BytesIO()
                Image.new("RGB", (178, 218), (160 + number if man else 40 + number,) * 3).save(file, "JPEG")
                yield number, {"image": file.getvalue(), "attributes": {"Bald": number == 0, "Male": man}}

    folder = tmp_path_factory.mktemp("prepared")
    CelebA(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="session")
def kept_pictures(tmp_path_factory):
    """One folder of decoded pictures for every run of the session. Compiled programs are kept as in all tests."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def _own_kept_pictures(kept_pictures, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept_pictures))
