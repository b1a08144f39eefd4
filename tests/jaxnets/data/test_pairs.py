"""Pairs in a file of MXNet's time, in every protocol of Python 3, and in those of Python 2."""

import io
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError
from jaxnets.data.decoding import decode
from jaxnets.data.pairs import load_bin

FIXTURE = Path(__file__).parents[2] / "fixtures" / "recordio" / "pairs.bin"
PICTURES = [random.Random(number).randbytes(300) for number in range(4)] + [bytes(range(256)), b"'\"\\\n\0"]
IS_SAME = [True, False, True]


def test_a_file_that_insightface_would_read():
    """By `pickle` itself, which a test may use on a file of its own."""
    expected, expected_same = pickle.loads(FIXTURE.read_bytes())
    pictures, is_same = load_bin(FIXTURE)
    assert pictures == tuple(expected) and len(pictures) == 40
    np.testing.assert_array_equal(is_same, np.array(expected_same), strict=True)
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            looks = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decode(picture, (112, 112, 3), where="pairs.bin"), looks)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("same", [IS_SAME, [1, 0, 1], [np.bool_(value) for value in IS_SAME]])
def test_every_protocol_of_python_3(tmp_path, protocol, same):
    (tmp_path / "x.bin").write_bytes(pickle.dumps((PICTURES, same), protocol))
    pictures, is_same = load_bin(tmp_path / "x.bin")
    assert pictures == tuple(PICTURES)
    np.testing.assert_array_equal(is_same, np.array(IS_SAME), strict=True)


def python_2(protocol):
    """`pickle.dumps((PICTURES, IS_SAME), protocol)` of Python 2, by what its pickle.py writes."""
    if protocol == 2:
        texts = b"".join(b"T" + len(each).to_bytes(4, "little") + each for each in PICTURES)
        return b"\x80\x02](" + texts + b"e](\x88\x89\x88e\x86."
    texts = b"".join(b"S" + repr(each)[1:].encode() + b"\na" for each in PICTURES)
    return b"((lp0\n" + texts + b"(lp1\n" + b"I01\naI00\naI01\na" + b"tp2\n."


@pytest.mark.parametrize("protocol", [0, 2])
def test_what_python_2_wrote(tmp_path, protocol):
    (tmp_path / "x.bin").write_bytes(python_2(protocol))
    theirs, same = pickle.loads(python_2(protocol), encoding="bytes")
    assert theirs == PICTURES and same == IS_SAME, "the file is what it should be"
    pictures, is_same = load_bin(tmp_path / "x.bin")
    assert pictures == tuple(PICTURES) and is_same.tolist() == IS_SAME


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(tmp_path):
    ran = tmp_path / "ran"
    return {
        "hostile picture": ([Hostile(ran), b"x"], [True]),
        "hostile truth": ([b"x", b"y"], [Hostile(ran)]),
        "hostile list": (Hostile(ran), [True]),
        "hostile whole": Hostile(ran),
        "number": 7,
        "three": ([b"x", b"y"], [True], []),
        "number for a picture": ([b"x", 2], [True]),
        "other text": ([b"x", "\u0142"], [True]),
        "two for a truth": ([b"x", b"y"], [2]),
        "string for a truth": ([b"x", b"y"], ["yes"]),
        "odd": ([b"x"] * 3, [True]),
        "more pairs": ([b"x"] * 2, [True, True]),
        "none": ([], []),
    }


@pytest.mark.parametrize("name", refused(Path()))
def test_other_pickles_are_refused_and_nothing_is_run(tmp_path, name):
    for protocol in (0, 2, 5):
        (tmp_path / "x.bin").write_bytes(pickle.dumps(refused(tmp_path)[name], protocol))
        with pytest.raises(DataError, match=r"x\.bin (is no pickle|has \d pictures and \d pairs)") as refusal:
            load_bin(tmp_path / "x.bin")
        assert str(refusal.value).isprintable()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"seven", b"\x80\x02]", FIXTURE.read_bytes()[:-500], b"]\x94" * 1000])
def test_damage_is_said_in_one_sentence(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.bin is no pickle of pictures and of pairs \(.*\); fetch it again"):
        load_bin(tmp_path / "x.bin")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "it is no regular file"), ("missing", "No such file or directory")):
        with pytest.raises(DataError, match=rf"{name} cannot be read \({reason}\)"):
            load_bin(tmp_path / name)
