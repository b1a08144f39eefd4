"""Files as they are written, whole or not at all, and .safetensors files that are no such thing."""

import errno
import json
import os
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxnets.torch_weights import from_torch, read, save
from jaxnets.torch_weights.files import write


def test_safetensors_are_what_the_format_says(thin, thin_weights, tmp_path):
    """An eight-byte length, a JSON header and the bytes, under PyTorch's names; read by the format's own library."""
    path = tmp_path / "some" / "folder" / "net.safetensors"
    save(path, thin, from_torch(thin, thin_weights))
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header["fc.0.weight"]["dtype"] == "F32" and header["fc.0.weight"]["shape"] == [3, 20]
    start, end = header["fc.0.weight"]["data_offsets"]
    assert content[8 + length + start : 8 + length + end] == thin_weights["fc.0.weight"].tobytes()
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == header.keys() == read(path).keys()
    for name, value in thin_weights.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_bfloat16_in_safetensors(tmp_path):
    array = np.array([[1 / 3, 3e38]], jnp.bfloat16)
    write(tmp_path / "net.safetensors", {"x": array, "scalar": np.array(7)})
    found = read(tmp_path / "net.safetensors")
    assert found["x"].dtype == jnp.bfloat16 and found["x"].tobytes() == array.tobytes()
    assert found["scalar"].shape == () and found["scalar"] == 7


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(call, tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    write(path, {"x": np.ones(3)})
    before = path.read_bytes()

    def fails(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space left"):
        write(path, {"x": np.zeros(3)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_endings_and_a_missing_pytorch(thin, thin_weights, tmp_path, monkeypatch):
    variables = from_torch(thin, thin_weights)
    with pytest.raises(ValueError, match=r"net\.npz ends in neither \.safetensors nor \.pth"):
        save(tmp_path / "net.npz", thin, variables)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(
        ImportError, match=r"net\.pth can only be written with PyTorch .*: a \.safetensors file needs none"
    ):
        save(tmp_path / "net.pth", thin, variables)
    assert list(tmp_path.iterdir()) == []


def header(**entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am not one",
        struct.pack("<Q", 2**62) + b"{}",
        header(x={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}) + bytes(7),
        header(x={"dtype": "F32", "shape": [2**62], "data_offsets": [0, 8]}) + bytes(8),
        header(x={"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}) + bytes(2),
        header(x={"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}) + bytes(8),
    ],
    ids=["empty", "text", "long header", "cut short", "enormous shape", "float8", "no dtype"],
)
def test_safetensors_that_cannot_be_read(content, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.safetensors cannot be read as safetensors: \S"):
        read(tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_no_file_and_a_folder_are_the_operating_systems_to_tell(name, tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        read(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError) as folder:
        read(tmp_path / name)
    assert missing.value.filename == folder.value.filename == str(tmp_path / name)
