"""Class folders split by class, and pairs in LFW's format."""

import numpy as np
import pytest

from jaxnets.data import DataError, load
from jaxnets.data.identities import find_identities

SIZE = 8
NAMES = ("ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal")


def make(pets, classes=NAMES, per_class=3, folder=""):
    """Of each class `per_class` pictures, CLASS_0001.png on; `value` is 10 times the class's number, plus n."""
    for number, name in enumerate(classes):
        for n in range(1, per_class + 1):
            pets.write(f"{folder}{name}/{name}_{n:04d}.png", 10 * number + n)
    return f"identities:{pets.root}"


def write_pairs(pets, text):
    (pets.root / "pairs.txt").write_text(text)


def seen_by(dataset, split):
    return {dataset.classes[label] for label in split.labels}


def test_a_quarter_of_the_classes_is_unseen_and_comes_last(pets):
    make(pets)
    pets.write("ian/only.png", 99)  # of one picture, and so for training
    dataset = load(f"identities:{pets.root}", size=SIZE)
    train, test = seen_by(dataset, dataset.train), seen_by(dataset, dataset.test)
    assert len(test) == 2 and not train & test and train | test == {*NAMES, "ian"} and "ian" in train
    assert dataset.open_set and dataset.classes == (*sorted(train), *sorted(test))
    tens = {pixel // 10 for pixel in pets.values(dataset.test)}
    assert {NAMES[number] for number in tens} == test and len(dataset.test.labels) == 6
    assert dataset.notes[-1] == "The test has 2 of 9 classes (a quarter, seed 0), and no other has."
    drawn = {find_identities(str(pets.root), seed=seed).classes[-2:] for seed in range(6)}
    assert dataset.classes[-2:] in drawn and len(drawn) > 1


def test_two_pictures_of_an_identity_are_enough_to_judge_it(pets):
    name = make(pets, per_class=2)
    assert len(load(name, size=SIZE).test.labels) == 2 * 2


def test_two_folders_share_no_class(pets):
    make(pets, NAMES[:3], folder="train/")
    make(pets, ("zoe", "amy"), folder="test/")
    dataset = load(f"identities:{pets.root}", size=SIZE)
    assert dataset.classes == ("ann", "bob", "cid", "amy", "zoe")
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert dataset.test.labels.tolist() == [3] * 3 + [4] * 3 and pets.values(dataset.test) == [11, 12, 13, 1, 2, 3]
    make(pets, ("bob",), folder="test/")
    with pytest.raises(DataError, match="the class bob is in train and in test; an identity of the test must be unse"):
        load(f"identities:{pets.root}", size=SIZE)


PAIRS = "2\t1\nbob\t1\t3\nbob\t2\teve\t1\neve\t1\t2\neve\t3\tbob\t1\n"


def test_lfws_pairs_name_the_test(pets):
    """Two folds of a pair of either kind; with blanks for tabs it is the same."""
    name = make(pets)
    found = []
    for text in (PAIRS, PAIRS.replace("\t", " ") + "\n\n"):
        write_pairs(pets, text)
        found.append(load(name, size=SIZE))
        assert seen_by(found[-1], found[-1].test) == {"bob", "eve"}
    dataset = found[0]
    shown = np.array(pets.values(dataset.test))[dataset.pairs.indices]
    assert shown.tolist() == [[11, 13], [12, 41], [41, 42], [43, 11]] and dataset.pairs.folds.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(found[1].pairs.indices, dataset.pairs.indices)
    assert dataset.notes[-1] == "Verification is also of the 4 pairs of pairs.txt, in 2 folds."
    write_pairs(pets, PAIRS.replace("bob\t1\t3", "bob\t1\t2"))
    assert load(name, size=SIZE).fingerprint() != dataset.fingerprint()


def test_pairs_of_unreadable_pictures_are_left_out(pets):
    name = make(pets)
    write_pairs(pets, PAIRS)
    (pets.root / "bob" / "bob_0002.png").write_bytes(b"no picture")
    dataset = load(name, size=SIZE, skip_unreadable=True)
    shown = np.array(pets.values(dataset.test))[dataset.pairs.indices]
    assert shown.tolist() == [[11, 13], [41, 42], [43, 11]] and dataset.pairs.folds.tolist() == [0, 1, 1]
    assert dataset.notes[-1] == "Left out, as a picture of theirs cannot be read: 1 of 4 pairs."
    (pets.root / "eve" / "eve_0001.png").write_bytes(b"no picture")
    (pets.root / "eve" / "eve_0003.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="too few pictures that can be read for pairs in two folds"):
        load(name, size=SIZE, skip_unreadable=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: '' is not a number of folds, two or more, and one of pairs"),
        ("10\n", "line 1: '10' is not a number of folds"),
        ("1\t1\nbob\t1\t2\nbob\t1\teve\t1\n", "line 1: '1 1' is not a number of folds, two or more"),
        (PAIRS.replace("2\t1", "2\t2", 1), "has 4 pairs, and 2 folds of 2 pairs of either kind would be 8"),
        (PAIRS.replace("bob\t1\t3", "bob\t1\t1"), r"line 2: 'bob\\t1\\t1' is not 'name n1 n2', two pictures of one"),
        (PAIRS.replace("2\teve", "2\tbob"), "is not 'name n1 other n2', of two identities"),
        (PAIRS.replace("eve\t1\t2", "eve\tone\t2"), "line 4: "),
        (PAIRS.replace("eve\t1\t2", "eve\t1\t9"), "line 4: the test has no picture eve_0009 in a class folder eve"),
        (PAIRS.replace("eve", "eva"), "line 3: the test has no picture eva_0001 in a class folder eva"),
        (PAIRS.encode("utf-16"), "is no text in UTF-8"),
    ],
)
def test_bad_pairs_are_refused_in_a_sentence(text, words, pets):
    name = make(pets, per_class=3)
    for number in (1, 2, 3):
        pets.write(f"eva/other{number}.png", number)
    (pets.root / "pairs.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words) as error:
        load(name, size=SIZE)
    assert str(error.value).count("\n") == 0


def test_sets_that_cannot_be_split_are_refused(pets):
    make(pets, NAMES[:4])
    with pytest.raises(DataError, match=r"the test has 1 of its 4 classes .* both sides need two or more"):
        load(f"identities:{pets.root}", size=SIZE)
    write_pairs(pets, PAIRS.replace("eve", "dan"))
    for name in ("ann", "cid"):
        (pets.root / name).rename(pets.root / f".{name}")
    with pytest.raises(DataError, match=r"training has none of its 2 classes \(the test: those that pairs.txt names\)"):
        load(f"identities:{pets.root}", size=SIZE)
    with pytest.raises(DataError, match="no such directory; give one that holds class folders, as in 'identities:"):
        load("identities:nowhere")
    make(pets, NAMES[:2], folder="train/")
    for name in ("bob", "dan"):
        (pets.root / name).rename(pets.root / f".{name}")
    with pytest.raises(DataError, match=r"has train but neither test nor val; add one, or give .* a quarter of its"):
        load(f"identities:{pets.root}")
