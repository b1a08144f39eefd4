"""Folders of small pictures, and a cache of their own for each test."""

import itertools

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
