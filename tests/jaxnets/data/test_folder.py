import os

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError, load
from jaxnets.data.folder import find_class_folders

SIZE = 8


@pytest.mark.parametrize("test", ["test", "val"])
def test_class_folders_in_two_splits(pets, test):
    name = pets.make(("train", test))
    dataset = load(name, size=SIZE)
    assert (dataset.name, dataset.classes, dataset.notes) == (name, ("cat", "dog"), ())
    for split, expected in ((dataset.train, range(6)), (dataset.test, range(6, 12))):
        pixels = np.uint8([[value, 255 - value, 7] for value in expected])[:, np.newaxis, np.newaxis]
        np.testing.assert_array_equal(split.images, np.broadcast_to(pixels, (6, SIZE, SIZE, 3)), strict=True)
        np.testing.assert_array_equal(split.labels, np.int32([0, 0, 0, 1, 1, 1]), strict=True)
    moved = dataset.to_device()
    np.testing.assert_array_equal(moved.train.images, dataset.train.images)


def test_test_is_taken_before_val_and_pictures_of_any_size_become_224(pets):
    name = pets.make(("test", "train", "val"), per_class=1)
    pets.write("train/cat/wide.jpg", 9, (30, 10))
    dataset = load(name)
    assert dataset.train.images.shape == (3, 224, 224, 3) and pets.values(dataset.test) == [0, 1]
    assert dataset.train.labels.tolist() == [0, 0, 1]


def test_one_level_is_split_by_name_a_tenth_of_each_class(pets, tmp_path):
    for number in range(30):
        pets.write(f"cat/{number:02}.png", number)
        if number < 5:
            pets.write(f"dog/{number:02}.png", 100 + number)
        if number < 19:
            pets.write(f"eel/{number:02}.png", 200 + number)
    dataset = load(f"folder:{pets.root}", size=SIZE)
    assert dataset.test.labels.tolist() == [0, 0, 0, 1, 2], "a tenth of 30, of 5 and of 19, rounded down but to 1"
    both = sorted(pets.values(dataset.train) + pets.values(dataset.test))
    assert both == [*range(30), *range(100, 105), *range(200, 219)]
    (tmp_path / "elsewhere").mkdir()
    os.rename(pets.root, tmp_path / "elsewhere" / "animals")
    again = load(f"folder:{tmp_path / 'elsewhere' / 'animals'}", size=SIZE)
    assert pets.values(again.test) == pets.values(dataset.test) and again.fingerprint() == dataset.fingerprint()
    # The names whose SHA-256 is smallest, worked out by `sha256sum`.
    drawn = ("cat/09.png", "cat/10.png", "cat/29.png", "dog/00.png", "eel/01.png")
    assert find_class_folders(str(tmp_path / "elsewhere" / "animals")).test.names == drawn


def test_hidden_files_and_files_beside_the_class_folders_are_passed_over(pets):
    name = pets.make()
    for stray in ("readme.txt", "train/labels.csv", "train/cat/.DS_Store"):
        (pets.root / stray).write_text("no picture")
    (pets.root / "train" / ".thumbnails").mkdir()
    dataset = load(name, size=SIZE)
    assert len(dataset.train.labels) == 6 and dataset.notes == ()


def test_files_that_are_no_pictures_by_their_endings_are_counted(pets):
    name = pets.make()
    for stray in ("cat/Thumbs.db", "cat/desktop.ini", "dog/desktop.ini", "dog/CREDITS", "dog/a.heic", "dog/b.HEIC"):
        (pets.root / "train" / stray).write_text("no picture")
    os.rename(pets.root / "train" / "cat" / "0.png", pets.root / "train" / "cat" / "0.PNG")
    dataset = load(name, size=SIZE)
    assert pets.values(dataset.train) == [0, 1, 2, 3, 4, 5]
    expected = "Left out, as the endings of their names are of no known picture format: "
    [note] = dataset.notes
    assert note.startswith(expected)
    assert sorted(note.removeprefix(expected).rstrip(".").split(", ")) == [
        "1 .db",
        "1 without one",
        "2 .heic",
        "2 .ini",
    ]


@pytest.mark.parametrize("others", [("bus", "car"), ("test", "val", "bus"), ("bus",)])
def test_a_class_of_trains_is_no_split(pets, others):
    name = pets.make((".",), ("train", *others))
    dataset = load(name, size=SIZE)
    assert dataset.classes == tuple(sorted(("train", *others)))
    assert np.bincount(dataset.train.labels).tolist() == [2] * len(dataset.classes)


def test_a_split_may_have_a_class_of_trains_and_other_folders_beside_it(pets):
    name = pets.make(classes=("bus", "train"))
    pets.write("notes/0.png", 0)
    assert load(name, size=SIZE).classes == ("bus", "train")


def test_classes_that_training_never_saw_are_left_out_of_the_test_split(pets):
    """Training has ant, cat and eel; the test split bat, cat and dog."""
    pets.make(("train",), ("ant", "cat", "eel"))
    name = pets.make(("test",), ("bat", "cat", "dog"), start=10)
    dataset = load(name, size=SIZE)
    assert dataset.classes == ("ant", "cat", "eel")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.test.labels.tolist() == [1, 1, 1] and pets.values(dataset.test) == [13, 14, 15]
    assert dataset.notes == (
        "Left out 2 classes without a training picture (bat, dog), and 6 test pictures of theirs.",
        "The test split has no picture of 2 classes (ant, eel).",
    )


def test_a_class_whose_training_pictures_are_all_skipped_is_left_out(pets):
    name = pets.make(classes=("ant", "bat", "cat"))
    for file in (pets.root / "train" / "bat").iterdir():
        file.write_bytes(b"no picture")
    for _ in range(2):
        dataset = load(name, size=SIZE, skip_unreadable=True)
        assert dataset.classes == ("ant", "cat") and pets.values(dataset.train) == [0, 1, 2, 6, 7, 8]
        assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert pets.values(dataset.test) == [9, 10, 11, 15, 16, 17]
        assert "1 class without a training picture (bat), and 3 test pictures of theirs" in dataset.notes[1]


def test_what_pillow_warns_of_is_no_fault(pets):
    name = pets.make()
    cut_short = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    odd = pets.root / "train" / "cat" / "odd.jpg"
    Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(odd, exif=cut_short)
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(odd) as image:
        image.getexif()
    assert pets.values(load(name, size=SIZE).train)[:4] == [0, 1, 2, 9]


def test_unreadable_files_are_named_and_counted_and_may_be_skipped(pets, tmp_path, broken_decoder):
    """What would never end is among them: a pipe that nothing writes to, zeros without end, a link to itself."""
    name = pets.make()
    (pets.root / "train" / "dog" / "0.png").write_bytes(b"no picture")
    (pets.root / "train" / "dog" / "1.png").write_bytes(b"")
    for value, link in (("cat/0", "/dev/zero"), ("cat/2", tmp_path / "nowhere"), ("dog/0", "0.png")):
        (pets.root / "test" / f"{value}.png").unlink()
        (pets.root / "test" / f"{value}.png").symlink_to(link)
    (pets.root / "test" / "dog" / "2.png").unlink()
    os.mkfifo(pets.root / "test" / "dog" / "2.png")
    with pytest.raises(DataError, match=r"6 of 12 pictures cannot be read: .*dog/0.png is no ") as error:
        load(name, size=SIZE)
    for words in (
        "dog/1.png is empty",
        r"cat/0.png cannot be read \(it is no regular file\)",
        r"cat/2.png cannot be read \(No such file or directory\)",
        r"dog/0.png cannot be read \(Too many levels of symbolic links\)",
        r"Remove or replace them, or leave them out by skip_unreadable=True \(--skip-unreadable\)\.$",
    ):
        error.match(words)
    for _ in range(2):
        dataset = load(name, size=SIZE, skip_unreadable=True)
        assert pets.values(dataset.train) == [0, 1, 2, 5] and dataset.train.labels.tolist() == [0, 0, 0, 1]
        assert pets.values(dataset.test) == [7, 10] and dataset.test.labels.tolist() == [0, 1]
        [note] = dataset.notes
        assert note.startswith("Left out, as 6 of 12 pictures cannot be read: ")
        broken_decoder()


def test_many_unreadable_files_are_counted_and_the_first_named(pets):
    name = pets.make()
    for file in (pets.root / "train").glob("*/*"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"6 of 12 pictures .*dog/1.png is no .* And 1 more\. Remove"):
        load(name, size=SIZE)
    with pytest.raises(DataError, match=r"train split: not one of its 6 pictures can be read"):
        load(name, size=SIZE, skip_unreadable=True)


def test_the_same_bytes_under_two_classes_or_in_both_splits_are_reported(pets, broken_decoder):
    name = pets.make()
    picture = (pets.root / "train" / "cat" / "1.png").read_bytes()
    (pets.root / "train" / "cat" / "copy.png").write_bytes(picture)  # harmless
    expected = []
    assert load(name, size=SIZE).notes == ()
    (pets.root / "train" / "dog" / "1.png").write_bytes(picture)
    expected.append("1 picture is there under two classes, byte for byte: train/cat/1.png is train/dog/1.png.")
    assert load(name, size=SIZE).notes == tuple(expected)
    for number in ("0", "1"):
        (pets.root / "test" / "cat" / f"{number}.png").write_bytes(picture)
    expected.append("2 pictures are there in both splits, byte for byte: train/cat/1.png is test/cat/0.png, for one.")
    assert load(name, size=SIZE).notes == tuple(expected)
    broken_decoder()
    assert load(name, size=SIZE).notes == tuple(expected)


def an_empty_class(pets):
    pets.make()
    (pets.root / "train" / "ant").mkdir()
    (pets.root / "train" / "ant" / ".hidden").touch()


def no_pictures(pets):
    an_empty_class(pets)
    for name in ("a.txt", "b.heic"):
        (pets.root / "train" / "ant" / name).touch()


def other_classes(pets):
    pets.make(("train",), ("cat", "dog"))
    pets.make(("test",), ("bird", "cow"))


def too_deep(pets):
    for name in ("all", "more\x1b[2J\n"):
        pets.write(f"{name}/cat/0.png", 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pets: None, "pets: no such directory; give one that holds class folders, as in 'folder:PATH'"),
        (lambda pets: pets.root.write_text("a file"), "pets: no such directory"),
        (lambda pets: pets.root.symlink_to(pets.root), "pets: no "),
        (lambda pets: pets.root.mkdir(), "pets: has no folders in it but needs at least two"),
        (lambda pets: pets.write("0.png", 0), "pets: has no folders in it but needs at least two"),
        (lambda pets: pets.write("cat/0.png", 0), "pets: has one folder in it but needs at least two"),
        (lambda pets: pets.make(("train",)), "pets: has train but neither test nor val; add one, or give .*pets/train"),
        (lambda pets: pets.make(("train", "test"), (".",)), "pets/train: has no folders in it but needs at least two"),
        (other_classes, "none of its 6 pictures is of a class that the train split has .cat, dog.; give both splits"),
        (an_empty_class, "pets/train/ant: this class folder has no pictures, as it is empty"),
        (no_pictures, "pets/train/ant: this class folder has no pictures, as none of its 2 files is a picture by its"),
        (too_deep, r"pets/(all|more\\x1b\[2J\\n): holds the folder cat, where only pictures belong"),
        (lambda pets: pets.make((".",), per_class=1), "pets/cat: one picture cannot serve both training and testing"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_sentence(pets, make, message):
    make(pets)
    with pytest.raises(DataError, match=message) as refusal:
        load(f"folder:{pets.root}", size=SIZE)
    assert str(refusal.value).endswith(".") and str(refusal.value).isprintable()


@pytest.mark.parametrize("name", ["~nosuchuser/pets", "x" * 5000, "a\0b", "\udcff\n"])
@pytest.mark.parametrize("scheme", ["folder", "idx"])
def test_a_name_that_no_folder_can_have(scheme, name):
    with pytest.raises(DataError, match=r"no (directory can be of that name|such directory)") as refusal:
        load(f"{scheme}:{name}")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 500


def test_a_folder_that_may_not_be_read(pets, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    name = pets.make()
    monkeypatch.setattr("jaxnets.data.folder.os.scandir", refuse)
    with pytest.raises(DataError, match=r"pets/train/cat: cannot be read \(Permission denied\)"):
        load(name)


def test_a_size_below_one_is_refused(pets):
    with pytest.raises(DataError, match="size is 0; give a height and width of at least 1"):
        load(pets.make(), size=0)


def test_the_home_directory_may_be_written_as_a_tilde(pets, tmp_path, monkeypatch):
    pets.make()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("folder:~/pets", size=SIZE).train.labels) == 6
