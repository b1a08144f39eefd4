"""A set written by MXNet 1.9.1, and records written here as dmlc-core's recordio.cc writes them."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError, load, records
from jaxnets.data.decoded import look_through
from jaxnets.data.recordio import Reader
from jaxnets.data.records import find_record_identities, find_records
from jaxnets.data.streaming import Stream

FIXTURES = Path(__file__).parents[2] / "fixtures" / "recordio"
MAGIC = struct.pack("<I", 0xCED7230A)


def record(content):
    """A record of this content, split where the content looks like the magic number."""
    written, start = b"", 0
    for at in range(0, len(content) // 4 * 4, 4):
        if content[at : at + 4] == MAGIC:
            written += MAGIC + struct.pack("<I", (2 if start else 1) << 29 | at - start) + content[start:at]
            start = at + 4
    rest = content[start:]
    return written + MAGIC + struct.pack("<I", (3 if start else 0) << 29 | len(rest)) + rest + bytes(-len(rest) % 4)


def packed(label, payload, key=0):
    if np.ndim(label) == 0:
        return struct.pack("<IfQQ", 0, label, key, 0) + payload
    return struct.pack("<IfQQ", len(label), 0, key, 0) + np.asarray(label, "<f4").tobytes() + payload


def write(folder, records, name="train"):
    """`records` by their keys, as label and payload; in the file in that order."""
    content, lines = b"", []
    for key, (label, payload) in records.items():
        lines.append(f"{key}\t{len(content)}\n")
        content += record(packed(label, payload, key))
    (folder / f"{name}.rec").write_bytes(content)
    (folder / f"{name}.idx").write_text("".join(lines))
    return folder / f"{name}.rec"


def test_a_set_that_mxnet_wrote():
    """Record 0 is the header, 1 to 72 are the pictures, and 73 to 84 the ranges of each identity's."""
    content = (FIXTURES / "glyphs.rec").read_bytes()
    with Reader(FIXTURES / "glyphs.rec") as reader:
        assert reader.keys.tolist() == list(range(85)) and len(reader) == 85
        assert reader[0].label.tolist() == [73, 85] and reader[0].payload == b""
        for key in range(1, 73):
            label, payload = reader[key]
            assert label == reader.label(key) == (key - 1) // 6
            # No picture here has the magic number in it, so that each lies in the file in one piece.
            assert payload.startswith(b"\xff\xd8") and payload.endswith(b"\xff\xd9") and payload in content
            with Image.open(io.BytesIO(payload)) as picture:
                assert (picture.format, picture.size) == ("JPEG", (112, 112))
        for identity in range(12):
            assert reader[73 + identity].label.tolist() == [1 + 6 * identity, 7 + 6 * identity]
        with pytest.raises(KeyError):
            reader[85]
        with pytest.raises(KeyError):
            reader[-1]
    with pytest.raises(ValueError, match="closed"):
        reader[1]


PAYLOADS = {
    "none": b"",
    "magic alone": MAGIC,
    "magic twice": MAGIC * 2,
    "magic within": b"1234" + MAGIC + b"56789",
    "magic three times": b"12" * 8 + MAGIC + b"abcd" + MAGIC + MAGIC + b"x",
    "magic at the end": b"12345678" + MAGIC,
    "magic off the grid": b"123" + MAGIC + b"4567",
    "half of it": b"1234" + MAGIC[:2],
    "long": random.Random(0).randbytes(5000),
}


def test_a_payload_with_the_magic_number_in_it_comes_back_whole(tmp_path):
    keys = [(9 * number) % 10 + 1 for number in range(9)]  # in another order than in the file
    records = {key: (float(key), payload) for key, payload in zip(keys, PAYLOADS.values(), strict=True)}
    with Reader(write(tmp_path, records)) as reader:
        assert reader.keys.tolist() == sorted(keys)
        for key, (label, payload) in records.items():
            assert reader[key] == (label, payload) and reader.label(key) == label


def test_labels_may_be_a_number_or_several(tmp_path):
    looks_like_magic = float(np.frombuffer(MAGIC, "<f4")[0])
    records = {
        1: (2.5, b"a"),
        2: ([7.0], b"b"),
        3: ([1.0, -2.0, 0.25], b"c"),
        4: (looks_like_magic, b"d"),
        5: ([looks_like_magic, 3.0], b"e"),
    }
    with Reader(write(tmp_path, records)) as reader:
        for key, (label, payload) in records.items():
            assert reader[key].payload == payload
            for read in (reader[key].label, reader.label(key)):
                np.testing.assert_array_equal(read, np.float32(label))
        assert isinstance(reader[1].label, float) and reader[2].label.dtype == np.float32


WHOLE = record(packed(1.0, b"1234"))


@pytest.mark.parametrize(
    ("rec", "idx", "message"),
    [
        (WHOLE, "1\t0\n2\n", "train.idx: is not lines of a key and a place"),
        (WHOLE, "1\tzero\n", "train.idx: is not lines"),
        (WHOLE, f"1\t{2**70}\n", "train.idx: is not lines"),
        (WHOLE, "1\t0\n1\t0\n", "train.idx: has a key twice"),
        (WHOLE, "1\t-8\n", "train.idx: has a key twice, or a number below zero"),
        (WHOLE, "1\t4\n", "train.rec: record 1 is damaged: no part of one begins where it should"),
        (WHOLE, f"1\t{2**62}\n", "record 1 (is damaged|cannot be read)"),
        (WHOLE[:-1], "1\t0\n", "record 1 is damaged: the file ends within it"),
        (MAGIC + struct.pack("<I", 8) + bytes(8), "1\t0\n", "record 1 is damaged: it is shorter than its own header"),
        (record(struct.pack("<IfQQ", 2**31, 0, 0, 0)), "1\t0\n", "it is shorter than its own header"),
        (MAGIC + struct.pack("<I", 3 << 29 | 4) + b"1234", "1\t0\n", "no part of one begins where it should"),
        (MAGIC + struct.pack("<I", 1 << 29) + WHOLE, "1\t0\n", "no part of one begins where it should"),
        (MAGIC + struct.pack("<I", 1 << 29) + b"", "1\t0\n", "no part of one begins where it should"),
        (MAGIC + struct.pack("<I", 2**29 - 1), "1\t0\n", "record 1 claims more than 268,435,456 bytes"),
    ],
)
def test_damage_is_said_in_one_sentence(tmp_path, rec, idx, message):
    (tmp_path / "train.rec").write_bytes(rec)
    (tmp_path / "train.idx").write_text(idx)
    with pytest.raises(DataError, match=message), Reader(tmp_path / "train.rec") as reader:
        reader[1]


@pytest.mark.parametrize("missing", ["train.rec", "train.idx"])
def test_a_missing_file_is_named(tmp_path, missing):
    write(tmp_path, {1: (0.0, b"x")})
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing}: cannot be read \(No such file or directory\)"):
        Reader(tmp_path / "train.rec")


def test_a_set_is_loaded_with_a_tenth_of_each_identity_held_out():
    dataset = load(f"recordio:{FIXTURES}")
    assert dataset.classes == tuple(map(str, range(12))) and dataset.notes == ()
    assert dataset.train.images.shape == (60, 112, 112, 3) and dataset.test.images.shape == (12, 112, 112, 3)
    assert (
        np.bincount(dataset.train.labels).tolist() == [5] * 12 and np.bincount(dataset.test.labels).tolist() == [1] * 12
    )
    with Reader(FIXTURES / "glyphs.rec") as reader:
        pixels = [np.asarray(Image.open(io.BytesIO(reader[key].payload)).convert("RGB")) for key in range(1, 73)]
    for split in (dataset.train, dataset.test):
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            assert any(np.array_equal(image, other) for other in pixels[6 * label : 6 * label + 6])


def picture(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 5), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_labels_of_any_numbers_become_classes_and_streams(
    tmp_path,
):
    """Identities 7, 40 and 1,000; one of them has a single picture, and one record is none."""
    labels = [7.0, [40.0, 3.0], 7.0, 1000.0, [40.0, 5.0], 40.0]
    records = {key: (label, picture(key)) for key, label in enumerate(labels, 10)} | {3: (7.0, b"no picture")}
    write(tmp_path, records)
    with pytest.raises(DataError, match=r"1 of 7 pictures cannot be read: .*train.rec: record 3 is no picture"):
        load(f"recordio:{tmp_path}")
    dataset = load(f"recordio:{tmp_path}", size=3, skip_unreadable=True)
    assert dataset.classes == ("7", "40", "1000")
    both = [*zip(dataset.train.images[:, 0, 0, 0], dataset.train.labels, strict=True)]
    both += zip(dataset.test.images[:, 0, 0, 0], dataset.test.labels, strict=True)
    assert sorted(both) == [(10, 0), (11, 1), (12, 0), (13, 2), (14, 1), (15, 1)]
    assert any("The test split has no picture of " in note for note in dataset.notes)
    found = look_through(find_records(str(tmp_path)), name="faces", skip_unreadable=True)
    [batch] = Stream(found.train, size=3, batch_size=9)
    np.testing.assert_array_equal(batch.images, dataset.train.images)
    np.testing.assert_array_equal(batch.labels, dataset.train.labels)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "no records of pictures"),
        ({0: ([1.0, 1.0], b"")}, "no records of pictures"),
        ({1: (0.5, b"x")}, "record 1 has the label 0.5, which is no whole number"),
        ({1: (-1.0, b"x")}, "record 1 has the label -1.0"),
        ({1: (float("nan"), b"x")}, "record 1 has the label nan"),
        ({1: (float("inf"), b"x")}, "record 1 has the label inf"),
        ({0: ([float("nan")], b""), 1: (0.0, b"x")}, "no records of pictures"),
        ({1: (0.0, b"x"), 2: (1.0, b"y")}, "record 1 and all others are of classes of one picture"),
    ],
)
def test_a_file_that_is_no_set_is_refused(tmp_path, records, message):
    write(tmp_path, records)
    with pytest.raises(DataError, match=message):
        load(f"recordio:{tmp_path}")


def test_several_files_and_none_of_them_train(tmp_path):
    with pytest.raises(DataError, match=r"has no .rec file but no train.rec"):
        load(f"recordio:{tmp_path}")
    for name in ("a", "b"):
        write(tmp_path, {1: (0.0, b"x")}, name)
    with pytest.raises(DataError, match=r"has a.rec, b.rec but no train.rec; name the one to train on"):
        load(f"recordio:{tmp_path}")


def test_identities_of_records_are_split_by_class(tmp_path):
    """Twelve identities of three pictures and one of a single picture, which is no test."""
    write(tmp_path, {key: (float(min(key // 3, 12)), picture(key)) for key in range(37)})
    dataset = load(f"identities:{tmp_path}", size=3)
    assert dataset.open_set and len(dataset.classes) == 13
    values = [split.images[:, 0, 0, 0].tolist() for split in (dataset.train, dataset.test)]
    assert sorted(values[0] + values[1]) == list(range(37)) and len(values[1]) == 3 * 3
    of_train, of_test = ({value // 3 for value in each} for each in values)
    assert not of_train & of_test and 12 in of_train
    names = [str(min(value // 3, 12)) for value in values[0] + values[1]]
    labels = [*dataset.train.labels.tolist(), *dataset.test.labels.tolist()]
    assert [dataset.classes[label] for label in labels] == names
    assert "The test has 3 of 13 classes (drawn, seed 0), and no other has." in dataset.notes
    assert {*find_record_identities(str(tmp_path), seed=1).test.labels} != {
        *find_record_identities(str(tmp_path)).test.labels
    }


def test_no_more_identities_are_unseen_than_can_be_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MOST_UNSEEN", 2)
    write(tmp_path, {key: (float(key // 2), b"x") for key in range(40)})
    found = find_record_identities(str(tmp_path))
    assert len({*found.test.labels.tolist()}) == 2 and len({*found.train.labels.tolist()}) == 18


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 1, 1, 2, 2], "of 3 classes, 3 with two pictures or more, the test would have 1 and training 2"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "of 8 classes, 0 with two pictures or more, the test would have 0"),
    ],
)
def test_too_few_identities_of_records_are_refused(tmp_path, labels, message):
    write(tmp_path, {key: (float(label), b"x") for key, label in enumerate(labels)})
    with pytest.raises(DataError, match=message):
        load(f"identities:{tmp_path}")
