"""Files that are damaged, lie about their sizes or ask for much work: the right weights, or one sentence."""

import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from jaxnets import pickles
from jaxnets.torch_weights import from_torch, pth, read
from tests.jaxnets.torch_weights.pickling import SIX, call, lit, mapping, named, storage, tensor, write


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tensor(storage("0", 6), 1), "a tensor reaches to element 6 of a storage of 6"),
        (tensor(storage("0", 6), 0, (2, 3), (4, 1)), "reaches to element 6 of a storage of 6"),
        (tensor(storage("0", 6), 0, (2, 3), (2**62, 1)), "of a storage of 6"),
        (tensor(storage("0", 6), 6, (), ()), "reaches to element 6"),
        (tensor(storage("0", 6), -1), "below zero or beyond all memory"),
        (tensor(storage("0", 6), 5, (2,), (-1,)), "below zero or beyond all memory"),
        (tensor(storage("0", 6), 0, (-2, -3)), "below zero or beyond all memory"),
        (tensor(storage("0", 6), 2**64), "below zero or beyond all memory"),
        (tensor(storage("0", 6), 0, (2**40, 2**40), (0, 0)), "cannot be read as PyTorch's weights"),
        (tensor(storage("0", 6), 0, (2, 3), (1,)), "cannot be read as PyTorch's weights"),
        (tensor(storage("0", 6), 0, (2.0, 3.0)), "a float in the place of a int"),
        (tensor(storage("0", 6), True), "a bool in the place of a int"),
        (tensor(storage("0", 7)), "a storage of 7 elements, float32, has only 6"),
        (tensor(storage("0", 2**61)), "cannot be read as PyTorch's weights"),
        (tensor(storage("0", -6)), "below zero or beyond all memory"),
        (tensor(storage("../secret", 6)), "cannot be read as PyTorch's weights"),
        (tensor(tensor(storage("0", 6))), "a ndarray in the place of a Storage"),
        (tensor(lit("no storage")), "a str in the place of a Storage"),
        (lit(("place", None, "0", "cpu", 6)) + b"Q", "other than a storage"),
        (lit("no function") + b")R", "calls a str"),
        (tensor(storage("0", 6), 0, (2**31, 4), (0, 1)), "a tensor of 8589934592 elements repeats a storage of 6"),
        (tensor(storage("0", 6), 0, (1,) * 65, (1,) * 65), "a tensor has 65 sizes and 65 strides"),
        (
            call("torch._utils._rebuild_parameter", lit("no tensor")),
            "a str in the place of a ndarray",
        ),
        (b"}(" + lit("a") + b"u", "cannot be read as PyTorch's weights"),
        (lit("x") + lit("a") + lit(1) + b"s", "a str in the place of a dict"),
        (b"\x82\x01", "the instruction EXT1, which no weights need"),
        (b"\x97", "the instruction NEXT_BUFFER"),
        (b"h\x07", "cannot be read as PyTorch's weights"),
        (b"", "cannot be read as PyTorch's weights"),
        (b"t", "cannot be read as PyTorch's weights"),
        (storage("0", 6) + storage("0", 3, "torch.DoubleStorage") + b"\x86", "is of two dtypes"),
    ],
    ids=lambda value: value[:40].replace("/", "") if isinstance(value, str) else "",
)
def test_what_is_damaged_or_would_read_beyond_its_storage(body, words, load):
    with pytest.raises(ValueError) as error:
        load(mapping(x=body), {"0": SIX})
    assert "net.pth" in str(error.value) and words in str(error.value)


def test_deep_keys_cannot_exhaust_the_stack(load):
    """Python hashes a tuple by recursion in C: a key so deep would end the process."""
    found = load(b"}" + b")" + b"\x85" * 100_000 + lit(1) + b"s")
    assert [(repr(key), value) for key, value in found.items()] == [("<tuple, never called>", 1)]
    with pytest.raises(ValueError, match="a tuple in the place of a str"):
        load(mapping(x=b"(" + lit("storage") + named("torch.FloatStorage") + b")" + b"\x85" * 100_000 + b"NK\x01tQ"))


def test_work_is_bounded(load, monkeypatch):
    """One list of a thousand pairs, a thousand times: each time six bytes of the file."""
    pairs = lit([("a", 1)] * 1000) + b"q\x010"
    once = named("collections.OrderedDict") + b"h\x01\x85R"
    assert load(pairs + b"}" + lit("x") + once + b"s") == {"x": {"a": 1}}
    for again in (once, named("builtins.set") + b"h\x01\x85R"):
        with pytest.raises(ValueError, match="copies the same list again and again"):
            load(pairs + mapping(x=(again + b"0") * 1000 + b"N"))
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 100)
    assert load(mapping(x=b"N0" * 20 + b"N")) == {"x": None}
    with pytest.raises(ValueError, match="more than 100 instructions"):
        load(mapping(x=b"N0" * 60 + b"N"))


def test_enormous_promises_take_no_memory(load):
    """A memo's place and a string's length that a file only claims to have."""
    assert load(mapping(x=lit(1)) + b"r\xff\xff\xff\x7f") == {"x": 1}
    with pytest.raises(ValueError, match="cannot be read"):
        load(b"X\xff\xff\xff\x7fabc")
    with pytest.raises(ValueError, match="cannot be read"):
        load(b"\x8d" + struct.pack("<Q", 2**62))


def zipped(path, compression=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


WEIGHTS = {"net/data.pkl": b"\x80\x02" + mapping(x=tensor(storage("0", 6))) + b".", "net/data/0": SIX.tobytes()}


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_zip_files_are_named_as_such(compression, tmp_path):
    """They are not inflated: a few bytes might become all memory."""
    path = zipped(tmp_path / "net.pth", compression, **WEIGHTS)
    with pytest.raises(ValueError, match="its records are compressed, which PyTorch's are not"):
        read(path)


def test_zip_files_that_are_not_pytorchs(tmp_path):
    path = tmp_path / "net.pth"
    assert read(zipped(path, **WEIGHTS))["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for names in (["other.txt"], ["a/data.pkl", "b/data.pkl"], ["data.pkl"]):
        with pytest.raises(ValueError, match=r"without the one data\.pkl"):
            read(zipped(path, **dict.fromkeys(names, b"\x80\x02}.")))
    for sign in ("net/constants.pkl", "net/code/__torch__.py"):
        with pytest.raises(ValueError, match="it is a TorchScript program"):
            read(zipped(path, **WEIGHTS, **{sign: b""}))
    with pytest.raises(ValueError, match=r"its record net/data/0 is missing"):
        read(zipped(path, **{"net/data.pkl": WEIGHTS["net/data.pkl"]}))


def test_zip_directories_that_lie(tmp_path):
    path = zipped(tmp_path / "net.pth", **WEIGHTS)
    whole = path.read_bytes()
    entry = whole.rindex(b"PK\x01\x02")  # of net/data/0, in the directory

    def changed(offset, layout, *values):
        content = bytearray(whole)
        struct.pack_into(layout, content, entry + offset, *values)
        path.write_bytes(content)
        return path

    for sizes in ((25, 24), (24, 25)):
        with pytest.raises(ValueError, match=r"its record net/data/0 is encrypted, or its sizes are wrong"):
            read(changed(20, "<II", *sizes))
    for sizes in ((2**31, 2**31), (24, 2**31), (2**31, 24)):
        with pytest.raises(ValueError, match="its records claim to be larger than the file"):
            read(changed(20, "<II", *sizes))
    with pytest.raises(ValueError, match=r"its record net/data/0 is damaged: its checksum is another"):
        read(changed(16, "<I", 1))
    assert read(changed(16, "<I", 0))["x"].tolist() == [[0, 1, 2], [3, 4, 5]]  # without a checksum, as PyTorch may
    with pytest.raises(ValueError, match="is not where the file says"):
        read(changed(42, "<I", 1))
    with pytest.raises(ValueError, match="encrypted"):
        read(changed(8, "<H", 1))


def test_storages_of_the_older_format_that_lie(tmp_path):
    path, body = tmp_path / "net.pth", mapping(x=tensor(storage("0", 6)))
    whole = write(path, "legacy", body, {"0": SIX}).read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"its storage 0 is twice in it, or ends after the file"):
        read(path)
    keys = pickle.dumps(["0"], 2)
    path.write_bytes(whole.replace(keys, pickle.dumps(["0", "0"], 2)) + whole[-32:])
    with pytest.raises(ValueError, match=r"its storage 0 is twice in it, or ends after the file"):
        read(path)
    with pytest.raises(ValueError, match="its storages claim to be larger than the file"):
        read(write(path, "legacy", mapping(x=tensor(storage("0", 2**40))), {"0": SIX}))


def test_limits_of_size(tmp_path, monkeypatch):
    path = zipped(tmp_path / "net.pth", **WEIGHTS)
    monkeypatch.setattr(pth, "LARGEST_PICKLE", 10)
    with pytest.raises(ValueError, match="sizes are wrong"):
        read(path)
    monkeypatch.setattr(pth, "LARGEST_FILE", 10)
    with pytest.raises(ValueError, match="is larger than 0 GiB"):
        read(path)
    with open(tmp_path / "net.safetensors", "wb") as file:
        file.truncate(2**33)  # without taking any room
    with pytest.raises(ValueError, match=r"net\.safetensors cannot be read as safetensors: it is larger than 4 GiB"):
        read(tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_pipes_and_devices_are_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="it is no regular file"):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is no regular file"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80\x02K\x01.", b"\x80"]
)
def test_files_that_are_something_else(content, tmp_path):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pth cannot be read as PyTorch's weights: \S"):
        read(tmp_path / "net.pth")


def damaged(content, dice):
    """A copy with bits flipped, bytes replaced, taken out, put in or repeated, or cut short."""
    content = bytearray(content)
    for _ in range(dice.choice([1, 1, 4])):
        start = dice.randrange(max(1, len(content)))
        piece = content[start : start + dice.randint(1, 40)]
        match dice.randrange(6):
            case 0:
                content[start : start + 1] = bytes([dice.randrange(256)])
            case 1:
                content[start : start + 1] = bytes([piece[0] ^ 1 << dice.randrange(8)] if piece else [])
            case 2:
                del content[start : start + len(piece)]
            case 3:
                content[start:start] = dice.randbytes(dice.randint(1, 9))
            case 4:
                content[start:start] = piece * dice.randint(1, 3)
            case 5:
                del content[start:]
    return bytes(content)


CASES = pytest.mark.parametrize("cases", [150, pytest.param(500, marks=pytest.mark.slow)])


@CASES
@pytest.mark.parametrize("file", ["checkpoint.pth", "legacy.pth", "thin.safetensors"])
def test_damage_anywhere_is_told_or_harmless(file, cases, thin, torch_files, tmp_path):
    """Of a zip file, whose checksums say more, the weights are the right ones if any. The others have no checksums."""
    whole, path, dice = (torch_files / file).read_bytes(), tmp_path / file, random.Random(0)
    want, outcomes = from_torch(thin, torch_files / file), set()
    for _ in range(cases):
        path.write_bytes(damaged(whole, dice))
        try:
            found = from_torch(thin, path)
        except ValueError as error:
            assert file in str(error) and "\n" not in str(error) and len(str(error)) < 2000
            outcomes.add("told")
        else:
            outcomes.add("read")
            if file == "checkpoint.pth":
                np.testing.assert_equal(found, want)
    assert outcomes == {"read", "told"}


@CASES
def test_damaged_pickles_are_told_or_harmless(cases, torch_files, tmp_path):
    """With the right checksum around them."""
    with zipfile.ZipFile(torch_files / "checkpoint.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    [pickled] = [name for name in records if name.endswith("data.pkl")]
    dice, outcomes = random.Random(1), set()
    for _ in range(cases):
        path = zipped(tmp_path / "net.pth", **records | {pickled: damaged(records[pickled], dice)})
        try:
            assert type(read(path)) is dict
            outcomes.add("read")
        except ValueError as error:
            assert "net.pth" in str(error) and "\n" not in str(error)
            outcomes.add("told")
    assert outcomes == {"read", "told"}


@CASES
def test_damaged_headers_of_safetensors_are_told_or_harmless(cases, tmp_path):
    whole = safetensors.numpy.save({"a": SIX, "b": SIX.reshape(2, 3).astype(np.float16)})
    dice, path = random.Random(2), tmp_path / "net.safetensors"
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(cases):
        header = damaged(whole[8 : 8 + length], dice)
        path.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :])
        try:
            read(path)
        except ValueError as error:
            assert "net.safetensors cannot be read as safetensors: " in str(error) and "\n" not in str(error)
