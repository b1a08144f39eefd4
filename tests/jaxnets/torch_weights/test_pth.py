"""Files of PyTorch made by hand, instruction by instruction: what is read, and what is refused without being run."""

import contextlib
import os
import pickle
import random
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.torch_weights import read

FORMATS = ["zip", "legacy"]
LEGACY_START = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {"int": 4}}]


# --- pickles, in the instructions of protocol 2 ---


def lit(value):
    """A value of Python's own, without the pickle's beginning and end."""
    return pickle.dumps(value, 2)[2:-1]


def named(name):
    module, _, attribute = name.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def call(name, *arguments):
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def mapping(**items):
    return b"}(" + b"".join(lit(name) + value for name, value in items.items()) + b"u"


def storage(key, count, kind="torch.FloatStorage", view=None):
    end = b"" if view is None else lit(view)
    return b"(" + lit("storage") + named(kind) + lit(key) + lit("cpu") + lit(count) + end + b"tQ"


def tensor(stored, offset=0, size=(2, 3), stride=(3, 1)):
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", stored, lit(offset), lit(size), lit(stride), lit(False), hooks)


def write(path, kind, body, storages=None, order=None, protocol=2):
    """A file in one of the two formats, of a pickle's body and {key: array}."""
    storages = {} if storages is None else storages
    program = bytes([0x80, protocol]) + body + b"."
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", program)
            for key, array in storages.items():
                archive.writestr(f"net/data/{key}", array.tobytes())
            if order:
                archive.writestr("net/byteorder", order)
    else:
        parts = [*(pickle.dumps(part, 2) for part in LEGACY_START), program, pickle.dumps(list(storages), 2)]
        parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
        path.write_bytes(b"".join(parts))
    return path


@pytest.fixture(params=FORMATS)
def load(request, tmp_path):
    """Writes a file and reads it."""
    return lambda body, storages=None, **more: read(write(tmp_path / "net.pth", request.param, body, storages, **more))


# --- what is read ---

SIX = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "values"),
    [
        (0, (2, 3), (3, 1), [[0, 1, 2], [3, 4, 5]]),
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (1, (2,), (3,), [1, 4]),
        (5, (), (), 5),
        (5, (1, 1), (100, 100), [[5]]),
        (2, (2, 2), (0, 1), [[2, 3], [2, 3]]),
        (0, (2, 0), (9, 9), [[], []]),
    ],
    ids=["plain", "transposed", "strided", "scalar", "one element", "expanded", "empty"],
)
def test_views_of_a_storage(offset, size, stride, values, load):
    found = load(mapping(x=tensor(storage("0", 6), offset, size, stride)), {"0": SIX})["x"]
    assert found.shape == size and found.dtype == np.float32 and not found.flags.writeable
    assert found.tolist() == values


def test_tensors_that_share_a_storage(load):
    body = mapping(a=tensor(storage("7", 6), 0, (3,), (1,)), b=tensor(storage("7", 6), 3, (3,), (1,)))
    found = load(body, {"7": SIX})
    assert found["a"].tolist() == [0, 1, 2] and found["b"].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("Double", np.array([1 / 3, -np.inf])),
        ("Float", np.array([1 / 3, np.nan], np.float32)),
        ("Half", np.array([1 / 3, 6e-8], np.float16)),
        ("BFloat16", np.array([1 / 3, 3e38], jnp.bfloat16)),
        ("Long", np.array([2**62, -1])),
        ("Int", np.array([2**30, -1], np.int32)),
        ("Short", np.array([2**14, -1], np.int16)),
        ("Char", np.array([127, -128], np.int8)),
        ("Byte", np.array([255, 0], np.uint8)),
        ("Bool", np.array([True, False])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_dtypes_on_the_processor_and_on_a_gpu(kind, array, load):
    for module in ("torch", "torch.cuda"):
        body = mapping(x=tensor(storage("0", 2, f"{module}.{kind}Storage"), 0, (2,), (1,)))
        found = load(body, {"0": array})["x"]
        assert found.dtype == array.dtype and found.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_order_of_bytes(dtype, tmp_path):
    kind = {"float32": "Float", "bfloat16": "BFloat16", "int64": "Long"}[dtype]
    array = np.array([1, 1.5, -7]).astype(jnp.dtype(dtype))
    swapped = array.view(f"u{array.itemsize}").byteswap()
    body = mapping(x=tensor(storage("0", 3, f"torch.{kind}Storage"), 0, (3,), (1,)))
    for order, stored in (("little", array), ("big", swapped)):
        found = read(write(tmp_path / "net.pth", "zip", body, {"0": stored}, order=order))["x"]
        assert found.dtype == array.dtype and found.dtype.isnative and found.tobytes() == array.tobytes()
    twice = mapping(a=tensor(storage("0", 6)), b=tensor(storage("0", 6)))
    found = read(write(tmp_path / "net.pth", "zip", twice, {"0": SIX}, order="big"))
    assert np.shares_memory(found["a"], found["b"])  # or a small file could ask for all memory
    with pytest.raises(ValueError, match="order of bytes is neither little nor big"):
        read(write(tmp_path / "net.pth", "zip", body, {"0": array}, order="middle"))


def test_parameters_and_dictionaries_of_any_age(load):
    plain = tensor(storage("0", 6))
    hooks = call("collections.OrderedDict")
    body = mapping(
        new=call("torch._utils._rebuild_parameter", plain, lit(True), hooks),
        old=call("torch.nn.parameter.Parameter", plain) + b"(" + lit(True) + lit(False) + hooks + b"tb",
        oldest=call("torch._utils._rebuild_tensor", storage("0", 6), lit(0), call("torch.Size", lit((6,))), lit((1,))),
        ordered=hooks + b"(" + lit("a") + lit(1) + b"u" + mapping(_metadata=hooks) + b"b",
        ordered_by_python_2=call(
            "collections.OrderedDict", b"](](" + lit("a") + lit(1) + b"eee".replace(b"eee", b"ee")
        ),
    )
    found = load(body, {"0": SIX})
    assert found["new"].tolist() == found["old"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["oldest"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["ordered"] == found["ordered_by_python_2"] == {"a": 1}


def test_numbers_and_strings_around_the_weights(load):
    around = {"epoch": 3, "best": 0.5, "name": "é", "flags": [True, False, None], "pair": (1, 2), "big": 2**80, 4: "k"}
    for protocol in (2, 3, 4, 5):
        body = pickle.dumps(around, protocol)[2:-1]
        assert load(body, protocol=protocol) == around


def test_a_view_of_a_storage_as_before_pytorch_0_4(tmp_path):
    body = mapping(x=tensor(storage("0", 6, view=("1", 2, 3)), 1, (2,), (1,)))
    assert read(write(tmp_path / "net.pth", "legacy", body, {"0": SIX}))["x"].tolist() == [3, 4]
    beyond = mapping(x=tensor(storage("0", 6, view=("1", 2, 3)), 1, (3,), (1,)))
    with pytest.raises(ValueError, match="element 3 of a storage of 3"):
        read(write(tmp_path / "net.pth", "legacy", beyond, {"0": SIX}))


# --- what is refused ---


class Runs:
    """Pickled, a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    """The bodies of pickles that would make the file `marker`, each with what it names first."""
    shell = f"touch {marker}"
    python = lit(f"__import__('pathlib').Path({str(marker)!r}).touch()")
    system = call("posix.system", lit(shell))
    inner = pickle.dumps(Runs(os.system, shell), 2)
    rebuild = "torch._utils._rebuild_tensor_v2"
    protocols = {
        f"protocol {i}": ("posix.system", pickle.dumps(Runs(os.system, shell), i)[2 if i > 1 else 0 : -1])
        for i in range(6)
    }
    return protocols | {
        "eval": ("builtins.eval", call("builtins.eval", python)),
        "exec": ("builtins.exec", call("builtins.exec", python)),
        "eval of Python 2": ("__builtin__.eval", call("__builtin__.eval", python)),
        "getattr": (
            "builtins.getattr",
            call("builtins.getattr", call("builtins.__import__", lit("os")), lit("system")) + lit((shell,)) + b"R",
        ),
        "a pickle in the pickle": ("pickle.loads", call("pickle.loads", b"B" + struct.pack("<I", len(inner)) + inner)),
        "a pickle in PyTorch": ("torch.storage._load_from_bytes", call("torch.storage._load_from_bytes", lit("x"))),
        "an attribute of what is allowed": (
            "collections.OrderedDict.fromkeys",
            b"ccollections\nOrderedDict.fromkeys\n" + lit(((1,),)) + b"R",
        ),
        "globals of what is allowed": (f"{rebuild}.__globals__", named(f"{rebuild}.__globals__")),
        "an instance": ("posix.system", b"(" + lit(shell) + b"iposix\nsystem\n"),
        "a class": ("subprocess.Popen", named("subprocess.Popen") + lit((["touch", str(marker)],)) + b"\x81"),
        "among weights": ("posix.system", mapping(a=lit(1), b=system)),
        "nested in lists": ("posix.system", mapping(a=b"](](" + system + b"ee")),
        "as a tensor's size": ("posix.system", mapping(a=call(rebuild, lit(0), lit(0), system))),
        "as a storage": ("posix.system", b"(" + lit("storage") + system + lit("0") + lit("cpu") + lit(1) + b"tQ"),
        "as a state": ("posix.system", call("collections.OrderedDict") + system + b"b"),
        "as a key": ("posix.system", b"}" + system + lit(1) + b"s"),
        "in a dictionary's pairs": ("posix.system", call("collections.OrderedDict", b"](" + system + b"e")),
        "never called": ("posix.system", named("posix.system") + b"0}"),
        "a module of one's own": ("__main__.Net", named("__main__.Net") + b")\x81}b"),
    }


@pytest.mark.parametrize("attack", list(hostile("")))
def test_code_is_refused_by_name_and_nothing_runs(attack, tmp_path, load):
    marker = tmp_path / "it_ran"
    name, body = hostile(marker)[attack]
    with pytest.raises(ValueError) as error:
        load(body)
    assert str(error.value) == (
        f"{tmp_path / 'net.pth'} is refused, and nothing in it was run: it names {name!r}, which no weights need "
        "(in PyTorch, save the module's state_dict() alone)"
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack",
    [
        *("protocol 0", "protocol 2", "protocol 5", "eval", "exec", "getattr", "a pickle in the pickle"),
        *("an instance", "among weights", "nested in lists", "as a key", "as a state"),
    ],
)
def test_the_same_attacks_do_run_in_pickle_itself(attack, tmp_path):
    marker = tmp_path / "it_ran"
    _, body = hostile(marker)[attack]
    with contextlib.suppress(TypeError, pickle.UnpicklingError):  # of what comes after
        pickle.loads(body + b".")
    assert marker.exists()


def test_a_hostile_name_cannot_reach_the_terminal(load):
    with pytest.raises(ValueError, match=r"it names 'a\.\\x1b\[2J\\n") as error:
        load(lit("a") + lit("\x1b[2J\n" + "b" * 1000) + b"\x93")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("place", ["instead of the number", "after it", "in the sizes", "for the keys"])
def test_code_around_the_legacy_formats_object(place, tmp_path):
    marker = tmp_path / "it_ran"
    evil = pickle.dumps(Runs(os.system, f"touch {marker}"), 2)
    parts = [*(pickle.dumps(part, 2) for part in LEGACY_START), pickle.dumps({}, 2), pickle.dumps([], 2)]
    parts[["instead of the number", "after it", "in the sizes", "", "for the keys"].index(place)] = evil
    (tmp_path / "net.pth").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"it names 'posix\.system'"):
        read(tmp_path / "net.pth")
    assert not marker.exists()


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
        (tensor(tensor(storage("0", 6))), "a ndarray in the place of a _Storage"),
        (tensor(lit("no storage")), "a str in the place of a _Storage"),
        (storage("0", 6, "collections.OrderedDict"), "other than a storage"),
        (named("torch.FloatStorage") + b"(" + lit(3) + b"tR", "calls torch.FloatStorage"),
        (call("torch._utils._rebuild_parameter", lit("no tensor")), "a str in the place of a ndarray"),
        (b"}(" + lit(((),)) + lit(1) + b"u", "a tuple in the place of a str"),
        (b"}(" + lit("a") + b"u", "cannot be read as PyTorch's weights"),
        (lit("x") + lit("a") + lit(1) + b"s", "a str in the place of a dict"),
        (b"\x82\x01", "the instruction EXT1, which no weights need"),
        (b"\x8f", "the instruction EMPTY_SET"),
        (b"h\x07", "cannot be read as PyTorch's weights"),
        (b"", "cannot be read as PyTorch's weights"),
        (b"t", "cannot be read as PyTorch's weights"),
        (lit([1]), "holds no dictionary of weights"),
    ],
    ids=lambda value: value[:40].replace("/", "") if isinstance(value, str) else "",
)
def test_what_is_damaged_or_would_read_beyond_its_storage(body, words, load):
    with pytest.raises(ValueError) as error:
        if "dictionary" in words:
            load(body)
        else:
            load(mapping(x=body), {"0": SIX})
    assert "net.pth" in str(error.value) and words in str(error.value)


def test_a_deep_key_cannot_exhaust_the_stack(load):
    """Python hashes a tuple by recursion in C: a key so deep would end the process."""
    with pytest.raises(ValueError, match="a tuple in the place of a str"):
        load(b"}" + b")" + b"\x85" * 200_000 + lit(1) + b"s")
    with pytest.raises(ValueError, match="a tuple in the place of a str"):
        load(mapping(x=b"(" + lit("storage") + named("torch.FloatStorage") + b")" + b"\x85" * 200_000 + b"NK\x01tQ"))


def test_enormous_promises_take_no_memory(load):
    """A memo's place and a string's length that a file only claims to have."""
    assert load(mapping(x=lit(1)) + b"r\xff\xff\xff\x7f") == {"x": 1}
    with pytest.raises(ValueError, match="cannot be read"):
        load(b"X\xff\xff\xff\x7fabc")
    with pytest.raises(ValueError, match="cannot be read"):
        load(b"\x8d" + struct.pack("<Q", 2**62))


def test_zip_files_that_are_not_pytorchs(tmp_path):
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + mapping(x=tensor(storage("0", 10**7), 0, (1,), (1,))) + b".")
        archive.writestr("net/data/0", bytes(4 * 10**7))
    with pytest.raises(ValueError, match="its records claim to be larger than the file"):
        read(path)
    for names in (["other.txt"], ["a/data.pkl", "b/data.pkl"], ["data.pkl"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")
        with pytest.raises(ValueError, match=r"without the one data\.pkl"):
            read(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80\x02K\x01.", b"\x80"]
)
def test_files_that_are_something_else(content, tmp_path):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pth cannot be read as PyTorch's weights: \S"):
        read(tmp_path / "net.pth")


@pytest.mark.parametrize("file", ["checkpoint.pth", "legacy.pth"])
def test_damage_anywhere_is_told_or_harmless(file, torch_files, tmp_path):
    """Files cut short and files with flipped bytes: read, or one sentence; never another exception."""
    whole, path, dice = (torch_files / file).read_bytes(), tmp_path / "net.pth", random.Random(0)
    for length in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"net\.pth"):
            read(path)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.choice([1, 1, 4])):
            damaged[dice.randrange(len(whole))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
            outcomes.add("read")
        except ValueError as error:
            assert "net.pth" in str(error)
            outcomes.add("told")
    assert outcomes == {"read", "told"}
