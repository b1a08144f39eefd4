import gzip
import io
import shutil
import struct
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import predict
from experiments.arcloss.__main__ import command as train
from experiments.arcloss.config import Config as Training
from experiments.run import terminal
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


@pytest.fixture(scope="session")
def v0_run(digits, kept_pictures, tmp_path_factory):
    """The folder of v0 after one epoch of two steps; read only."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(kept_pictures))
        train(Training(variant="v0", epochs=1, batch_size=80, data=f"idx:{digits}", out=out))
    return out / "arcloss" / "v0" / "seed0"


@pytest.fixture(scope="session")
def images(digits):
    return load(f"idx:{digits}").test.images


@pytest.fixture
def digit(images):
    """A 7, white on black."""
    return images[0, :, :, 0]


@pytest.fixture
def predict_says(capsys):
    """Predicts in this process: a command line → its exit code, output and complaints."""

    def said(*argv):
        code = 0
        try:
            words = [str(word) for word in argv]
            terminal.main(lambda: predict.command(terminal.parse(predict.Config, "predict", words)))
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return said


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Forty pictures of 16×16 in two classes that their brightness tells apart, in class folders."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 14), ("test", 6)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(level - 30, level + 30, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def fonts(tmp_path_factory):
    """A folder of five small fonts."""
    folder = tmp_path_factory.mktemp("fonts")
    for name in ("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"):
        shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", folder)
    return folder
