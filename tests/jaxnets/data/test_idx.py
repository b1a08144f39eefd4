import gzip
import importlib.resources
import os
import struct

import jax
import numpy as np
import pytest

from jaxnets.data import DataError, idx, load
from jaxnets.data.idx import parse_idx

BUNDLED = importlib.resources.files("jaxnets.data") / "mnist"

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
LABELS = np.array([3, 0, 2, 2, 1], np.uint8)


def idx_bytes(array):
    """Written from the format's description, independently of the reader."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_folder(folder, *, separator="-", compress=False):
    for part, stop in (("train", 5), ("t10k", 2)):
        for kind, array in (("images", IMAGES), ("labels", LABELS)):
            name, content = f"{part}-{kind}{separator}idx{array.ndim}-ubyte", idx_bytes(array[:stop])
            if compress:
                name, content = f"{name}.gz", gzip.compress(content)
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def mnist():
    return load("mnist")


def test_mnist_is_the_mnist_that_everyone_knows(mnist):
    assert mnist.name == "mnist"
    assert mnist.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    train, test = mnist.train, mnist.test
    assert train.images.shape == (60000, 28, 28, 1) and train.images.dtype == np.uint8
    assert test.images.shape == (10000, 28, 28, 1) and test.labels.dtype == np.int32
    np.testing.assert_array_equal(train.labels[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(test.labels[:5], [7, 2, 1, 0, 4])
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.mean() == pytest.approx(33.318, abs=5e-4)
    assert test.images.mean() == pytest.approx(33.791, abs=5e-4)


def test_mnist_as_a_folder_is_the_bundled_mnist(mnist):
    folder = load(f"idx:{BUNDLED}")
    assert folder.classes == mnist.classes
    jax.tree.map(np.testing.assert_array_equal, (folder.train, folder.test), (mnist.train, mnist.test))


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("compress", [False, True])
def test_a_folder_of_any_height_and_width_under_each_spelling(tmp_path, separator, compress):
    name = f"idx:{write_folder(tmp_path, separator=separator, compress=compress)}"
    dataset = load(name)
    assert dataset.name == name and dataset.classes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(dataset.train.images, IMAGES[..., np.newaxis])
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    np.testing.assert_array_equal(dataset.test.images, IMAGES[:2, ..., np.newaxis])
    np.testing.assert_array_equal(dataset.test.labels, LABELS[:2])


def test_the_home_directory_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(write_folder(tmp_path).parent))
    assert len(load(f"idx:~/{tmp_path.name}").train.labels) == 5


def write_set(folder, train_labels, test_labels, names=("train", "t10k")):
    for part, labels in zip(names, (train_labels, test_labels), strict=True):
        images = np.resize(IMAGES, (len(labels), 4, 3))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.uint8(labels)))
    return f"idx:{folder}"


def test_classes_are_those_that_training_has(tmp_path):
    """Labels 0 and 3 nobody has, and 5 the test split alone."""
    dataset = load(write_set(tmp_path, [4, 1, 2, 1, 7], [5, 7, 4, 5]))
    assert dataset.classes == ("1", "2", "4", "7")
    np.testing.assert_array_equal(dataset.train.labels, np.int32([2, 0, 1, 0, 3]), strict=True)
    np.testing.assert_array_equal(dataset.test.labels, np.int32([3, 2]), strict=True)
    np.testing.assert_array_equal(dataset.test.images[..., 0], np.resize(IMAGES, (4, 4, 3))[1:3])
    assert dataset.notes == (
        "Left out 4 classes without a training picture (0, 3, 5, 6), and 2 test pictures of theirs.",
        "The test split has no picture of 2 classes (1, 2).",
    )


def test_a_test_split_of_other_classes_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none of its 2 pictures is of a class .* train split has \(0, 1\)"):
        load(write_set(tmp_path, [0, 1], [2, 3]))


@pytest.mark.parametrize("place", ["", "/emnist-letters"])
def test_emnist_under_its_own_names_upright_and_with_its_letters_alone(tmp_path, place):
    labels = [*range(1, 27)]
    write_set(tmp_path, labels, labels[:3], ("emnist-letters-train", "emnist-letters-test"))
    if place:
        write_set(tmp_path, [0, 1], [0, 1], ("emnist-digits-train", "emnist-digits-test"))
        with pytest.raises(
            DataError, match=f"emnist-digits, emnist-letters; say of which, as in 'idx:{tmp_path}/emnist-"
        ):
            load(f"idx:{tmp_path}")
    dataset = load(f"idx:{tmp_path}{place}")
    assert dataset.classes == tuple(map(str, labels)) and dataset.test.labels.tolist() == [0, 1, 2]
    stored = np.resize(IMAGES, (26, 4, 3))
    assert dataset.train.images.shape == (26, 3, 4, 1)
    for image, one in zip(dataset.train.images[..., 0], stored, strict=True):
        np.testing.assert_array_equal(image, one.T)
    assert dataset.notes[0] == "Left out 1 class without a training picture (0)."


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(tmp_path):
    """Two megabytes, of zeros that their header does not count, or that it does."""
    file = write_folder(tmp_path, compress=True) / "train-images-idx3-ubyte.gz"
    zeros = gzip.compress(bytes(2**24), 1, mtime=0) * 128  # members of one archive: 2 GiB
    for sizes, message in (
        ((5, 4, 3), "has more than the 76 bytes"),
        ((2**11, 2**10, 2**10), "claims 2,147,483,664 b"),
    ):
        file.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, *sizes), mtime=0) + zeros)
        with pytest.raises(DataError, match=f"{file}: {message}"):
            load(f"idx:{tmp_path}")


@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 3, (0, 2**32 - 1, 2**32 - 1), (2**16, 2**16, 2**32 - 1)])
def test_sizes_beyond_all_memory_are_refused(sizes):
    with pytest.raises(DataError, match=r"x: (truncated|claims an array of 0 ×)"):
        parse_idx(struct.pack(">4B3I", 0, 0, 8, 3, *sizes), rank=3, where="x")


def test_a_pipe_is_no_file(tmp_path):
    (write_folder(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    os.mkfifo(tmp_path / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: no such file"):
        load(f"idx:{tmp_path}")


def test_an_array_of_bytes_written_by_hand():
    content = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(parse_idx(content, rank=3, where="hand"), np.uint8([[[10, 20, 30], [40, 50, 60]]]))


WHOLE = idx_bytes(IMAGES)
REFUSED = [
    ("train-images-idx3-ubyte", b"\0\0\x0d\3" + WHOLE[4:], "begins with bytes 00000d03 and not 00000803"),
    ("train-images-idx3-ubyte", idx_bytes(LABELS), "begins with bytes 00000801 and not 00000803"),
    ("t10k-labels-idx1-ubyte", WHOLE, "begins with bytes 00000803 and not 00000801"),
    ("train-images-idx3-ubyte", gzip.compress(WHOLE, mtime=0), "begins with bytes 1f8b"),
    ("train-images-idx3-ubyte", b"", "truncated, 0 bytes of at least 16"),
    ("train-images-idx3-ubyte", WHOLE[:2], "truncated, 2 bytes of at least 16"),
    ("train-images-idx3-ubyte", WHOLE[:15], "truncated, 15 bytes of at least 16"),
    ("train-images-idx3-ubyte", WHOLE[:-1], "truncated, 75 bytes of at least 76"),
    ("t10k-images-idx3-ubyte", WHOLE + b"\0\0", "has more than the 76 bytes that it claims"),
    ("train-labels-idx1-ubyte", idx_bytes(LABELS[:4]), "4 labels for the 5 images of train-images-idx3-ubyte"),
]


@pytest.mark.parametrize(("file", "content", "message"), REFUSED)
def test_a_broken_file_is_refused_by_its_name(tmp_path, file, content, message):
    (write_folder(tmp_path) / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path / file}: .*{message}"):
        load(f"idx:{tmp_path}")


WHOLE_GZIP = gzip.compress(WHOLE, mtime=0)  # without the time, so that every test process names its tests alike
FLIPPED = bytearray(WHOLE_GZIP)
FLIPPED[len(FLIPPED) // 2] ^= 0xFF


@pytest.mark.parametrize(
    "content", [b"", b"\0" + WHOLE_GZIP, WHOLE, WHOLE_GZIP[:20], WHOLE_GZIP[:-4], WHOLE_GZIP + b"more", bytes(FLIPPED)]
)
def test_a_broken_gzip_archive_is_refused_by_its_name(tmp_path, content):
    file = write_folder(tmp_path, compress=True) / "train-images-idx3-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file}: (not a whole gzip archive|truncated|has more than)"):
        load(f"idx:{tmp_path}")


def test_an_empty_set_is_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES[:0]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:0]))
    with pytest.raises(DataError, match=r"test split: images are uint8 \[0, 4, 3, 1\], which is empty"):
        load(f"idx:{tmp_path}")


def test_a_missing_file_is_named_with_its_other_spellings(tmp_path):
    (write_folder(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=f"{tmp_path}/t10k-labels-idx1-ubyte: no such file, nor .*idx1-ubyte.gz"):
        load(f"idx:{tmp_path}")


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere: no such directory"):
        load(f"idx:{tmp_path}/nowhere")


def test_a_damaged_bundled_archive_says_to_reinstall(tmp_path, monkeypatch):
    monkeypatch.setattr(idx.importlib.resources, "files", lambda package: tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: .* is missing; reinstall jaxnets\."):
        load("mnist")
    # One changed bit, in a field that gzip does not check.
    archive = bytearray((BUNDLED / "train-images-idx3-ubyte.gz").read_bytes())
    archive[4] ^= 1
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(archive)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: .* is corrupt .*; reinstall jaxnets\."):
        load("mnist")
