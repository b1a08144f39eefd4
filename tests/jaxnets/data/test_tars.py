"""Tars that Python's tarfile writes, in each of its formats, read as it reads them; and sets of pictures in tars."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError, find, load, tars
from jaxnets.data.decoded import look_through
from jaxnets.data.streaming import Stream

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 5), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(path, contents, format="pax"):
    """A tar of these contents by their names; None is a folder, and a text a link to it."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[format]) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = (tarfile.SYMTYPE, content) if content else (tarfile.DIRTYPE, "")
                tar.addfile(member)
    return path


def by_tarfile(path):
    with tarfile.open(path, "r:") as tar:
        return [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_that_tarfile_finds(tmp_path, format):
    long = 60 if format == "ustar" else 400
    contents = {
        "a.jpg": b"x" * 512,
        "folder": None,
        "folder/a.cls": b"7",
        "link.jpg": "l" * 200 if format != "ustar" else "a.jpg",
        "a/" + "d" * long + "/" + "n" * long + ".jpg": b"y" * 513,
        "none.jpg": b"",
        "größe/ö.jpg": bytes(range(256)),
    }
    path = write(tmp_path / "a.tar", contents, format)
    found = [*tars.members(path)]
    assert found == by_tarfile(path)
    regular = {name: content for name, content in contents.items() if isinstance(content, bytes)}
    assert {member.name: tars.read(path, member.start, member.size) for member in found} == regular


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_sizes_beyond_eight_gibibytes(tmp_path, format):
    """By headers alone, in a file that is mostly holes: GNU writes the number in binary, and pax beside the header."""
    size, path = 9 * 2**30 + 5, tmp_path / "a.tar"
    big, small = tarfile.TarInfo("big.jpg"), tarfile.TarInfo("small.jpg")
    big.size, small.size = size, 3
    head = big.tobuf(FORMATS[format])
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + size + -size % 512)
        file.write(small.tobuf(FORMATS[format]) + b"abc" + bytes(509))
    found = [*tars.members(path)]
    assert found == by_tarfile(path) == [("big.jpg", len(head), size), ("small.jpg", found[1].start, 3)]
    assert tars.read(path, *found[1][1:]) == b"abc"


def test_a_tar_by_parts_and_one_without_an_end(tmp_path):
    path = write(tmp_path / "a.tar", {"a.jpg": b"abc", "b.jpg": b"d"})
    content = path.read_bytes()
    path.write_bytes(content[:2048])  # both members, and no zeros after them
    assert [member.name for member in tars.members(path)] == ["a.jpg", "b.jpg"]
    path.write_bytes(b"")
    assert [*tars.members(path)] == []


def sealed(header):
    """With the checksum that the header's other bytes have."""
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def header(size=b"%011o\0" % 3, kind=b"0"):
    start = sealed(b"a.jpg".ljust(124, b"\0") + size + bytes(20) + kind + b"\0" * 100 + b"ustar\0" + b"00")
    return sealed((start + bytes(512))[:512])


@pytest.mark.parametrize("kind", [b"0", b"7", b"\0"])
def test_every_kind_of_regular_file(tmp_path, kind):
    """Pre-POSIX programs wrote a zero byte."""
    path = tmp_path / "a.tar"
    path.write_bytes(header(kind=kind) + b"abc" + bytes(509))
    assert [*tars.members(path)] == by_tarfile(path) == [("a.jpg", 512, 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(bytes(2000), mtime=0), r"a\.tar: is no tar, or a compressed one \(at byte 0\)"),
        (b"x" * 2000, r"is no tar, or a compressed one"),
        (b"x" * 20, r"is no tar"),
        (header() + b"abc" + bytes(509) + b"x" * 512, r"is damaged: no member begins where one should \(at byte 1,024"),
        (header()[:200], r"is no tar"),
        (header() + b"ab", r"is damaged: the file ends within a member \(at byte 0\)"),
        (header(b"%011o\0" % 8**10), r"the file ends within a member"),
        (header(b"\x80" + b"\xff" * 11), r"the file ends within a member"),
        (header(b"12345678x\0\0\0") + bytes(512), r"the file ends within a member"),
        (header(b"%011o\0" % 2**17, b"x") + bytes(2**18), r"is damaged: a name takes 131,072 bytes \(at byte 512\)"),
        (header(b"%011o\0" % 2**17, b"L") + bytes(2**18), r"a name takes 131,072 bytes"),
    ],
)
def test_damage_is_said_in_one_sentence(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        [*tars.members(tmp_path / "a.tar")]


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    for name, reason in (("pipe.tar", "it is no regular file"), ("missing.tar", "No such file or directory")):
        with pytest.raises(DataError, match=rf"{name}: cannot be read \({reason}\)"):
            [*tars.members(tmp_path / name)]
    path = write(tmp_path / "a.tar", {"a.jpg": b"abc"})
    with pytest.raises(DataError, match="has become shorter"):
        tars.read(path, 10**6, 3)


def shard(start, count, classes):
    """Keys in pairs, and what else WebDataset may have beside them."""
    contents = {}
    for number in range(start, start + count):
        contents |= {f"{number:04d}.png": png(number), f"{number:04d}.cls": b"%d\n" % classes[number % len(classes)]}
        contents |= {f"{number:04d}.json": b"{}", f"{number:04d}.seg.png": b"a mask"}
    return contents


def pairs_of(split):
    return sorted(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))


@pytest.mark.parametrize("whole", [True, False])
def test_a_tenth_of_each_class_is_held_out_of_a_tar_and_of_shards(tmp_path, whole):
    contents = shard(0, 60, [7, 40, 1000]) | {"._0001.png": b"of a Mac"}
    if whole:
        place = write(tmp_path / "all.tar", contents)
    else:
        place = tmp_path
        names = [*contents]
        for number in range(3):
            write(tmp_path / f"{number}.tar", {name: contents[name] for name in names[80 * number : 80 * (number + 1)]})
    dataset = load(f"tar:{place}")
    assert dataset.classes == ("7", "40", "1000") and dataset.notes == ()
    assert dataset.train.images.shape == (54, 5, 4, 3) and np.bincount(dataset.test.labels).tolist() == [2, 2, 2]
    assert sorted(pairs_of(dataset.train) + pairs_of(dataset.test)) == [(number, number % 3) for number in range(60)]
    found = look_through(find(f"tar:{place}"), name="tars")
    stream = Stream(found.train, size=4, batch_size=54)
    [batch] = stream
    np.testing.assert_array_equal(batch.labels, dataset.train.labels)
    assert pairs_of(batch) == pairs_of(dataset.train)


def test_a_folder_of_two_splits(tmp_path):
    write(tmp_path / "train" / "b.tar", shard(0, 4, [3, 5]))
    write(tmp_path / "train" / "a.tar", shard(4, 2, [5]) | {"9999.png": png(0)})
    write(tmp_path / "val" / "a.tar", shard(20, 3, [5, 8]))
    dataset = load(f"tar:{tmp_path}", size=3)
    assert dataset.classes == ("3", "5")
    assert pairs_of(dataset.train) == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 1), (5, 1)]
    assert pairs_of(dataset.test) == [(20, 1), (22, 1)]
    assert any("they have a picture or a class alone: a.tar/9999." in note for note in dataset.notes)
    assert any("Left out 1 class without a training picture (8)" in note for note in dataset.notes)


def test_pictures_that_cannot_be_read_are_named_or_left_out(tmp_path):
    write(tmp_path / "a.tar", shard(0, 8, [0, 1]) | {"0003.png": b"no picture"})
    with pytest.raises(DataError, match=r"1 of 8 pictures cannot be read: .*a\.tar/0003\.png is no picture"):
        load(f"tar:{tmp_path}")
    dataset = load(f"tar:{tmp_path}", skip_unreadable=True)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 7


def test_a_changed_tar_is_decoded_anew(tmp_path):
    path = write(tmp_path / "a.tar", shard(0, 8, [0, 1]))
    before = load(f"tar:{path}")
    write(path, shard(100, 8, [0, 1]))
    os.utime(path, ns=(1, 1))
    after = load(f"tar:{path}")
    assert before.train.images.min() < 8 and after.train.images[:, 0, 0, 0].min() >= 100


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "has no picture beside a class"),
        ({"a.png": b"x", "b.cls": b"1"}, "has no picture beside a class"),
        ({"a.png": b"x", "a.cls": b"cat"}, r"a\.tar/a\.cls: has the class 'cat', which is no whole number from 0"),
        ({"a.png": b"x", "a.cls": b"-1"}, "has the class '-1'"),
        ({"a.png": b"x", "a.cls": b""}, "has the class ''"),
        ({"a.png": b"x", "a.cls": b"2147483648"}, "has the class '2147483648'"),
        ({"a.png": b"x", "a.jpg": b"y", "a.cls": b"1"}, r"a\.jpg: is a second picture of one key"),
        ({"a.png": b"x", "a.cls": b"1"}, "test split: has no pictures, or too few to share"),
    ],
)
def test_sets_that_are_incomplete_are_refused(tmp_path, contents, message):
    write(tmp_path / "a.tar", contents)
    with pytest.raises(DataError, match=message):
        find(f"tar:{tmp_path / 'a.tar'}")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], r"no such directory; give a tar or a folder of tars, as in 'tar:PATH'"),
        (["set"], r"set: has no \.tar; compressed ones have to be unpacked first"),
        (["set", "set/train"], r"set: has train but neither test nor val"),
        (["set", "set/train", "set/test"], r"set/train: has no \.tar"),
    ],
)
def test_places_without_tars_are_refused(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=message):
        find(f"tar:{tmp_path / 'set'}")
