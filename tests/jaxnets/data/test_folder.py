import itertools
import os

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError, cache, load
from jaxnets.data.folder import find_class_folders

SIZE = 8


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxnets" / "pictures"


def write(path, value, size=(SIZE, SIZE)):
    """A picture whose every pixel is `value`, so that it can be told by any of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


def pets(root, splits=("train", "test"), per_class=3):
    """`value` counts the files in the order of split, class and name."""
    values = itertools.count()
    for split, name, number in itertools.product(splits, ("cat", "dog"), range(per_class)):
        write(root / split / name / f"{number}.png", next(values))
    return root


def values(split):
    return split.images[:, 0, 0, 0].tolist()


def broken_decoder(monkeypatch):
    def decode(*args, **options):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache, "decode", decode)


@pytest.mark.parametrize("test", ["test", "val"])
def test_class_folders_in_two_splits(tmp_path, test):
    name = f"folder:{pets(tmp_path / 'pets', ('train', test))}"
    dataset = load(name, size=SIZE)
    assert (dataset.name, dataset.classes, dataset.notes) == (name, ("cat", "dog"), ())
    for split, expected in ((dataset.train, range(6)), (dataset.test, range(6, 12))):
        pixels = np.uint8([[value, 255 - value, 7] for value in expected])[:, np.newaxis, np.newaxis]
        np.testing.assert_array_equal(split.images, np.broadcast_to(pixels, (6, SIZE, SIZE, 3)), strict=True)
        np.testing.assert_array_equal(split.labels, np.int32([0, 0, 0, 1, 1, 1]), strict=True)
    moved = dataset.to_device()
    np.testing.assert_array_equal(moved.train.images, dataset.train.images)


def test_test_is_taken_before_val_and_pictures_of_any_size_become_224(tmp_path):
    root = pets(tmp_path / "pets", ("test", "train", "val"), per_class=1)
    write(root / "train" / "cat" / "wide.jpg", 9, (30, 10))
    dataset = load(f"folder:{root}")
    assert dataset.train.images.shape == (3, 224, 224, 3) and values(dataset.test) == [0, 1]
    assert dataset.train.labels.tolist() == [0, 0, 1]


def test_one_level_is_split_by_name_a_tenth_of_each_class(tmp_path):
    for number in range(30):
        write(tmp_path / "pets" / "cat" / f"{number:02}.png", number)
        if number < 5:
            write(tmp_path / "pets" / "dog" / f"{number:02}.png", 100 + number)
    dataset = load(f"folder:{tmp_path / 'pets'}", size=SIZE)
    assert dataset.test.labels.tolist() == [0, 0, 0, 1]
    assert sorted(values(dataset.train) + values(dataset.test)) == [*range(30), *range(100, 105)]
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "pets", tmp_path / "elsewhere" / "animals")
    again = load(f"folder:{tmp_path / 'elsewhere' / 'animals'}", size=SIZE)
    assert values(again.test) == values(dataset.test) and again.fingerprint() == dataset.fingerprint()
    # The names whose SHA-256 is smallest, worked out by `sha256sum`.
    drawn = ("cat/09.png", "cat/10.png", "cat/29.png", "dog/00.png")
    assert find_class_folders(str(tmp_path / "elsewhere" / "animals")).test.names == drawn


def test_hidden_files_and_files_beside_the_class_folders_are_passed_over(tmp_path):
    root = pets(tmp_path / "pets")
    for stray in ("readme.txt", "train/labels.csv", "train/cat/.DS_Store"):
        (root / stray).write_text("no picture")
    (root / "train" / ".thumbnails").mkdir()
    assert len(load(f"folder:{root}", size=SIZE).train.labels) == 6


def test_what_pillow_warns_of_is_no_fault(tmp_path):
    root = pets(tmp_path / "pets")
    cut_short = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(root / "train" / "cat" / "odd.jpg", exif=cut_short)
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(root / "train" / "cat" / "odd.jpg") as odd:
        odd.getexif()
    assert values(load(f"folder:{root}", size=SIZE).train)[:4] == [0, 1, 2, 9]


def test_the_second_load_never_decodes(tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")
    seen = []
    first = load(f"folder:{root}", size=SIZE, on_progress=lambda *done: seen.append(done))
    assert seen == [(done, 12) for done in range(1, 13)]
    broken_decoder(monkeypatch)
    second = load(f"folder:{root}", size=SIZE, on_progress=lambda *done: seen.append(done))
    assert len(seen) == 12 and second.fingerprint() == first.fingerprint()
    assert isinstance(second.train.images.base, np.memmap) and not second.train.images.flags.writeable
    with pytest.raises(AssertionError, match="decoded again"):
        load(f"folder:{root}", size=SIZE + 1)


def overwrite(root):
    write(root / "train" / "cat" / "0.png", 99)


def add(root):
    write(root / "train" / "cat" / "00.png", 99)


def rename(root):
    os.rename(root / "train" / "cat" / "0.png", root / "train" / "cat" / "9.png")


def relabel(root):
    os.rename(root / "train" / "cat" / "0.png", root / "train" / "dog" / "3.png")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (overwrite, [99, 1, 2, 3, 4, 5]),
        (add, [0, 99, 1, 2, 3, 4, 5]),
        (rename, [1, 2, 0, 3, 4, 5]),
        (relabel, [1, 2, 3, 4, 5, 0]),
    ],
)
def test_a_changed_folder_is_decoded_anew_in_the_place_of_the_old(tmp_path, cache_home, change, expected):
    root = pets(tmp_path / "pets")
    load(f"folder:{root}", size=SIZE)
    change(root)
    assert values(load(f"folder:{root}", size=SIZE).train) == expected
    assert sorted(file.suffix for file in cache_home.iterdir()) == [".json", ".npy"]


def flip_a_pixel(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-9], lambda content: b"[]", flip_a_pixel],
    ids=["empty", "short", "other", "flipped"],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, cache_home, monkeypatch, suffix, damage):
    root = pets(tmp_path / "pets")
    expected = load(f"folder:{root}", size=SIZE).fingerprint()
    [file] = cache_home.glob(f"*{suffix}")
    file.write_bytes(damage(file.read_bytes()))
    assert load(f"folder:{root}", size=SIZE).fingerprint() == expected
    broken_decoder(monkeypatch)
    assert load(f"folder:{root}", size=SIZE).fingerprint() == expected


def test_a_load_that_is_stopped_leaves_nothing_behind(tmp_path, cache_home):
    root = pets(tmp_path / "pets")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(f"folder:{root}", size=SIZE, on_progress=stop)
    assert not list(cache_home.iterdir())


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path, cache_home):
    cache_home.mkdir(parents=True)
    for name, age in ((".old.partial", 7200), (".new.partial", 60)):
        (cache_home / name).write_bytes(b"part")
        written = (cache_home / name).stat().st_mtime - age
        os.utime(cache_home / name, (written, written))
    load(f"folder:{pets(tmp_path / 'pets')}", size=SIZE)
    assert [file.name for file in cache_home.glob(".*")] == [".new.partial"]


def test_a_cache_that_cannot_be_written_says_where_and_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=f"{tmp_path}/file/.*: decoded pictures cannot be kept there .*XDG_CACHE_HOME"):
        load(f"folder:{pets(tmp_path / 'pets')}", size=SIZE)


def test_a_set_that_does_not_fit_on_the_disk_says_how_much_it_takes(tmp_path):
    with pytest.raises(DataError, match=r"12 pictures of 200000×200000 take 1341\.1 GiB, and .* GiB left; free some"):
        load(f"folder:{pets(tmp_path / 'pets')}", size=200_000)


def test_unreadable_files_are_named_and_counted_and_may_be_skipped(tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")
    (root / "train" / "dog" / "0.png").write_bytes(b"no picture")
    (root / "train" / "dog" / "1.png").write_bytes(b"")
    (root / "test" / "cat" / "2.png").unlink()
    (root / "test" / "cat" / "2.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"3 of 12 pictures cannot be read: .*dog/0.png is no ") as error:
        load(f"folder:{root}", size=SIZE)
    for words in ("dog/1.png is empty", r"cat/2.png cannot be read \(No such file or directory\)", "Remove or replace"):
        error.match(words)
    for _ in range(2):
        dataset = load(f"folder:{root}", size=SIZE, skip_unreadable=True)
        assert values(dataset.train) == [0, 1, 2, 5] and dataset.train.labels.tolist() == [0, 0, 0, 1]
        assert values(dataset.test) == [6, 7, 9, 10, 11] and dataset.test.labels.tolist() == [0, 0, 1, 1, 1]
        [note] = dataset.notes
        assert note.startswith("Left out, as 3 of 12 pictures cannot be read: ")
        broken_decoder(monkeypatch)


def test_a_fault_that_passes_is_forgotten_unless_it_was_accepted(tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")

    def failing(*args, **options):
        raise DataError("the network drive sleeps.")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode", failing)
        with pytest.raises(DataError, match="12 of 12 pictures cannot be read: the network drive sleeps"):
            load(f"folder:{root}", size=SIZE)
    assert values(load(f"folder:{root}", size=SIZE).train) == [0, 1, 2, 3, 4, 5]


def test_many_unreadable_files_are_counted_and_the_first_named(tmp_path):
    root = pets(tmp_path / "pets")
    for file in (root / "train").glob("*/*"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"6 of 12 pictures .*dog/1.png is no .* And 1 more\. Remove"):
        load(f"folder:{root}", size=SIZE)
    with pytest.raises(DataError, match=r"train split: images are .* which is empty"):
        load(f"folder:{root}", size=SIZE, skip_unreadable=True)


def test_the_same_bytes_under_two_classes_or_in_both_splits_are_reported(tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")
    picture = (root / "train" / "cat" / "1.png").read_bytes()
    (root / "train" / "cat" / "copy.png").write_bytes(picture)  # harmless
    expected = []
    assert load(f"folder:{root}", size=SIZE).notes == ()
    (root / "train" / "dog" / "1.png").write_bytes(picture)
    expected.append("1 picture is there under two classes, byte for byte: train/cat/1.png is train/dog/1.png.")
    assert load(f"folder:{root}", size=SIZE).notes == tuple(expected)
    for name in ("0", "1"):
        (root / "test" / "cat" / f"{name}.png").write_bytes(picture)
    expected.append("2 pictures are there in both splits, byte for byte: train/cat/1.png is test/cat/0.png, for one.")
    assert load(f"folder:{root}", size=SIZE).notes == tuple(expected)
    broken_decoder(monkeypatch)
    assert load(f"folder:{root}", size=SIZE).notes == tuple(expected)


def nothing(root):
    root.mkdir()


def one_class(root):
    write(root / "cat" / "0.png", 0)


def flat(root):
    write(root / "0.png", 0)


def no_test(root):
    pets(root, ("train",))


def other_classes(root):
    pets(root)
    os.rename(root / "test" / "dog", root / "test" / "bird")


def an_empty_class(root):
    pets(root)
    (root / "train" / "ant").mkdir()
    (root / "train" / "ant" / ".hidden").touch()


def too_deep(root):
    write(root / "all" / "cat" / "0.png", 0)
    write(root / "more" / "cat" / "0.png", 0)


def one_picture(root):
    write(root / "cat" / "0.png", 0)
    write(root / "dog" / "0.png", 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "pets: no such directory; give one that holds class folders, as in 'folder:PATH'"),
        (lambda root: root.write_text("a file"), "pets: no such directory"),
        (nothing, "pets: has no folders in it but needs at least two"),
        (flat, "pets: has no folders in it but needs at least two"),
        (one_class, "pets: has one folder in it but needs at least two"),
        (no_test, "pets: has train but neither test nor val; add one, or give .*pets/train to "),
        (other_classes, "the class folders of train and test differ in bird, dog; give both the same"),
        (an_empty_class, "pets/train/ant: this class folder is empty"),
        (too_deep, "pets/all: holds the folder cat, where only pictures belong"),
        (one_picture, "pets/cat: one picture cannot serve both training and testing"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_sentence(tmp_path, make, message):
    make(tmp_path / "pets")
    with pytest.raises(DataError, match=message) as refusal:
        load(f"folder:{tmp_path / 'pets'}", size=SIZE)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_size_below_one_is_refused(tmp_path):
    with pytest.raises(DataError, match="size is 0; give a height and width of at least 1"):
        load(f"folder:{pets(tmp_path / 'pets')}", size=0)


def test_the_home_directory_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    pets(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("folder:~/pets", size=SIZE).train.labels) == 6
