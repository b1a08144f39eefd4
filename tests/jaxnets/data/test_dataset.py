import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.data import DataError, Dataset, Split, find, load


def split(n=4, *, shape=(2, 3, 1), labels=None):
    images = np.arange(n * np.prod(shape), dtype=np.uint8).reshape(n, *shape)
    return Split(images, (np.arange(n) % 2).astype(np.int32) if labels is None else labels)


def dataset(**changes):
    return Dataset(**{"train": split(), "test": split(2), "classes": ("cat", "dog"), "name": "pets"} | changes)


def test_split_is_a_pytree_of_images_and_labels():
    given = split()
    images, labels = jax.tree.leaves(given)
    assert images is given.images and labels is given.labels
    batch = jax.tree.map(lambda leaf: leaf[1:3], given)
    assert isinstance(batch, Split) and batch.images.shape == (2, 2, 3, 1) and batch.labels.shape == (2,)


def test_split_goes_through_jit_and_scan_as_it_is():
    @jax.jit
    def total(batch: Split):
        def step(carry, example: Split):
            return carry + example.images.sum(dtype=jnp.int32) * example.labels, None

        return jax.lax.scan(step, jnp.int32(0), batch)[0]

    given = split()
    expected = (given.images.sum(axis=(1, 2, 3)).astype(np.int32) * given.labels).sum()
    assert total(given) == total(jax.device_put(given)) == expected


def test_to_device_moves_the_arrays_and_changes_nothing():
    host = dataset()
    device = host.to_device()
    assert (device.classes, device.name) == (host.classes, host.name)
    before, after = jax.tree.leaves((host.train, host.test)), jax.tree.leaves((device.train, device.test))
    for here, there in zip(before, after, strict=True):
        assert isinstance(here, np.ndarray) and isinstance(there, jax.Array)
        np.testing.assert_array_equal(there, here, strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": Split(split().images / np.float32(255), split().labels)}, "train split: images are float32 .4, 2, "),
        ({"test": Split(split().images[..., 0], split().labels)}, r"test split: images are uint8 \[4, 2, 3\]; give "),
        ({"train": Split(split().images.tolist(), split().labels)}, "images are a list; give a uint8 array"),
        ({"train": split(labels=np.zeros(4, np.int64))}, r"labels are int64 \[4\]; give an int32 array \[N\]"),
        ({"train": split(labels=np.zeros((4, 1), np.int32))}, r"labels are int32 \[4, 1\]"),
        ({"test": split(labels=np.zeros(3, np.int32))}, "pets, test split: 4 images but 3 labels"),
        ({"train": split(labels=np.int32([0, 1, 2, 0]))}, "label 2 of example 2 is outside 0 to 1; .* more than 2"),
        ({"train": split(labels=np.int32([0, 1, 0, -1]))}, "label -1 of example 3 is outside"),
        ({"test": split(0)}, r"test split: images are uint8 \[0, 2, 3, 1\], which is empty"),
        ({"train": split(shape=(0, 3, 1)), "test": split(shape=(0, 3, 1))}, "which is empty"),
        ({"test": split(shape=(3, 2, 1))}, r"train images are \(2, 3, 1\) and test images \(3, 2, 1\)"),
        ({"classes": ()}, "pets: classes is empty"),
    ],
)
def test_a_wrong_dataset_is_refused_in_one_sentence(changes, message):
    with pytest.raises(DataError, match=message) as refusal:
        dataset(**changes)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_shapes_on_a_device_are_checked_too():
    images, labels = jax.device_put((split().images, split().labels))
    with pytest.raises(DataError, match="4 images but 3 labels"):
        dataset(train=Split(images, labels[:3]))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("minst", "did you mean 'mnist'"),
        ("fashion-mnst", "there is mnist, idx, folder, faces, glyphs, identities, tfds, recordio, tar"),
        ("tdfs:mnist", "did you mean 'tfds'"),
        ("tfds:", "did you mean 'tfds:NAME'"),
        ("idx", "did you mean 'idx:DIRECTORY'"),
        ("mnist:", "did you mean 'mnist'"),
        ("folders:photos", "did you mean 'folder'"),
        ("face", "did you mean 'faces'"),
        ("", "there is mnist, idx, folder, faces, glyphs, identities, tfds, recordio, tar"),
        ("two\nlines\x1b[2J" + "x" * 5000, "there is mnist"),
        ("~nosuchuser", "there is mnist"),
    ],
)
def test_an_unknown_name_lists_what_there_is_and_the_nearest(name, nearest):
    known = r"\(known are mnist, idx:DIRECTORY, folder:PATH, faces, glyphs, identities:PATH, tfds:NAME, "
    known += r"recordio:DIRECTORY, tar:PATH\)"
    with pytest.raises(DataError, match=f"no such data set {known}; {nearest}") as refusal:
        load(name)
    assert len(str(refusal.value)) < 600 and str(refusal.value).isprintable()


def test_a_directory_alone_is_told_how_to_be_named(tmp_path):
    with pytest.raises(
        DataError, match=f"{tmp_path}: is a directory; write 'folder:{tmp_path}' if .* 'idx:{tmp_path}'"
    ):
        load(str(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "idx:somewhere", "folder:somewhere", "faces"])
def test_data_dir_is_refused_where_it_would_be_ignored(name):
    with pytest.raises(DataError, match="data_dir='elsewhere' has no meaning"):
        load(name, data_dir="elsewhere")


@pytest.mark.parametrize("name", ["mnist", "idx:somewhere"])
def test_a_size_is_refused_where_it_would_be_ignored(name):
    with pytest.raises(DataError, match="size=64 has no meaning"):
        load(name, size=64)


def test_mnist_needs_neither_tensorflow_nor_its_datasets_nor_grain():
    program = """
import sys
from jaxnets.data import load
load("mnist")
assert not {"tensorflow", "tensorflow_datasets", "grain"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["mnist", "faces", "idx:x", "folder:", "recordio:", "tar:", "nothing"])
def test_sets_that_are_not_stored_as_pictures_cannot_be_streamed(name):
    with pytest.raises(DataError, match=f"{name}: is no set of stored pictures, which are named folder:"):
        find(name)
