"""Nothing that a pickle names is called: hostile functions, optimisers, configurations, modules."""

import argparse
import collections
import contextlib
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import PurePosixPath

import jax
import numpy as np
import pytest

from jaxnets.pickles import Inert
from jaxnets.torch_weights import from_torch, modules, read
from tests.jaxnets.torch_weights.pickling import LEGACY_START, SIX, call, lit, mapping, named, storage, tensor


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
        "a pickle in the pickle": (
            "pickle.loads",
            call("pickle.loads", b"B" + struct.pack("<I", len(inner)) + inner),
        ),
        "a pickle in PyTorch": (
            "torch.storage._load_from_bytes",
            call("torch.storage._load_from_bytes", lit("x")),
        ),
        "an attribute of what is allowed": (
            "collections.OrderedDict.fromkeys",
            b"ccollections\nOrderedDict.fromkeys\n" + lit(((1,),)) + b"R",
        ),
        "globals of what is allowed": (f"{rebuild}.__globals__", named(f"{rebuild}.__globals__")),
        "an instance": ("posix.system", b"(" + lit(shell) + b"iposix\nsystem\n"),
        "a class": (
            "subprocess.Popen",
            named("subprocess.Popen") + lit((["touch", str(marker)],)) + b"\x81",
        ),
        "among weights": ("posix.system", mapping(a=lit(1), b=system)),
        "nested in lists": ("posix.system", mapping(a=b"](](" + system + b"ee")),
        "as a tensor's size": (
            "posix.system",
            mapping(a=call(rebuild, lit(0), lit(0), system)),
        ),
        "as a storage": (
            "posix.system",
            b"(" + lit("storage") + system + lit("0") + lit("cpu") + lit(1) + b"tQ",
        ),
        "as a state": ("posix.system", call("collections.OrderedDict") + system + b"b"),
        "as a key": ("posix.system", b"}" + system + lit(1) + b"s"),
        "in a dictionary's pairs": ("posix.system", call("collections.OrderedDict", b"](" + system + b"e")),
        "never called": ("posix.system", named("posix.system") + b"0}"),
        "a module of one's own": ("__main__.Net", named("__main__.Net") + b")\x81}b"),
    }


@pytest.mark.parametrize("attack", list(hostile("")))
def test_code_never_runs_and_is_there_by_its_name_at_most(attack, tmp_path, load):
    marker = tmp_path / "it_ran"
    name, body = hostile(marker)[attack]
    try:
        content = load(body)
    except ValueError as error:
        assert str(error).startswith(f"{tmp_path / 'net.pth'} ")
        if "holds no dictionary" in str(error):
            assert str(error).endswith(f"{name}, never called>") or str(error).endswith(f"{name}(), never called>")
    else:
        assert type(content) is dict
        assert all(type(value) in (int, list, Inert) for value in content.values()), content
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


def test_results_are_named_as_such(load):
    """The result of a call is nothing that can be called in its turn."""
    found = load(mapping(a=hostile("")["getattr"][1]))["a"]
    assert repr(found) == "<builtins.getattr(), never called>"


def test_objects_of_the_oldest_protocols(tmp_path):
    for protocol in (0, 1):
        path = tmp_path / "net.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", pickle.dumps({"a": argparse.Namespace(lr=0.1), "b": [1, (2,)]}, protocol))
        found = read(path)
        assert found["a"].name == "argparse.Namespace" and found["a"].state == {"lr": 0.1} and found["b"] == [1, (2,)]


def test_a_hostile_name_cannot_reach_the_terminal(load):
    with pytest.raises(ValueError, match=r"holds no dictionary of weights, but <a\.\\x1b\[2J\\n") as error:
        load(lit("a") + lit("\x1b[2J\n" + "b" * 1000) + b"\x93")
    assert len(str(error.value)) < 500
    with pytest.raises(ValueError, match=r"holds no dictionary of weights, but a list"):
        load(lit([1]))


@pytest.mark.parametrize("place", ["instead of the number", "after it", "for the object", "for the keys"])
def test_code_around_the_legacy_formats_object(place, tmp_path):
    marker = tmp_path / "it_ran"
    evil = pickle.dumps(Runs(os.system, f"touch {marker}"), 2)
    parts = [*(pickle.dumps(part, 2) for part in LEGACY_START), pickle.dumps({}, 2), pickle.dumps([], 2)]
    parts[["instead of the number", "after it", "", "for the object", "for the keys"].index(place)] = evil
    (tmp_path / "net.pth").write_bytes(b"".join(parts))
    with pytest.raises(ValueError, match=r"net\.pth (cannot be read|holds no dictionary)"):
        read(tmp_path / "net.pth")
    assert not marker.exists()


def test_what_lies_beside_the_weights_is_inert(load):
    """Each as pickle itself writes it, in every protocol that PyTorch takes."""
    beside = {
        "scalar": np.float64(0.5),
        "array": np.arange(3),
        "arguments": argparse.Namespace(lr=0.1),
        "counter": collections.Counter("abca"),
        "default": collections.defaultdict(list, a=[1]),
        "path": PurePosixPath("/data"),
        "complex": 1 + 2j,
        "function": len,
        "bytes": b"abc",
        "set": {1},
        "frozen": frozenset([2]),
    }
    for protocol in (2, 3, 4, 5):
        body = pickle.dumps(beside, protocol)[2:-1]
        weights = lit("weights") + tensor(storage("0", 6)) + b"s"
        found = load(body + weights, {"0": SIX}, protocol=protocol)
        assert found.pop("weights").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found.pop("default") == {"a": [1]} and list(found.pop("set")) == [1] and list(found.pop("frozen")) == [2]
        if protocol > 2:
            assert found.pop("bytes") == b"abc"  # by a function of codecs before
        assert {key: type(value) for key, value in found.items()} == dict.fromkeys(found, Inert)
        assert found["arguments"].name == "argparse.Namespace" and found["arguments"].state == {"lr": 0.1}
        assert repr(found["counter"]) == "<collections.Counter, never called>"


def test_tensors_without_a_dtype_of_numpys_are_inert(load):
    untyped = b"(" + lit("storage") + named("torch.storage.UntypedStorage") + lit("0") + lit("cpu") + lit(24) + b"tQ"
    hooks = call("collections.OrderedDict")

    def of(dtype):
        shape = lit(0), lit((3,)), lit((1,)), lit(False)
        return call("torch._utils._rebuild_tensor_v3", untyped, *shape, hooks, named(f"torch.{dtype}"))

    stored = np.arange(24, dtype=np.uint8)
    body = mapping(float8=of("float8_e4m3fn"), numbers=of("uint16"), dtype=named("torch.float32"))
    found = load(body, {"0": stored})
    assert repr(found["float8"]) == "<torch.float8_e4m3fn tensor, never called>"
    assert found["numbers"].dtype == np.uint16 and found["numbers"].tolist() == [0x100, 0x302, 0x504]
    assert found["dtype"].name == "torch.float32"


def a_module(parameters=b"}", buffers=b"}", modules=b"}", more=b""):
    """An object of a class of one's own, as `torch.save` writes a whole module."""
    parts = b"}(" + lit("_parameters") + parameters + lit("_buffers") + buffers + lit("_modules") + modules + more
    return named("__main__.Net") + b")\x81" + parts + b"ub"


def test_a_module_that_was_pickled_whole_is_its_state_dict(load):
    inner = a_module(
        mapping(weight=tensor(storage("0", 6)), bias=lit(None)),
        mapping(kept=tensor(storage("0", 6), 1, (2,), (1,)), passing=tensor(storage("0", 6))),
        more=lit("_non_persistent_buffers_set") + call("__builtin__.set", lit(["passing"])),
    )
    outer = a_module(
        mapping(scale=tensor(storage("0", 6), 5, (), ())), modules=mapping(a=inner, none=lit(None), b=inner)
    )
    for body in (outer, mapping(model=outer, epoch=lit(3))):
        found = load(body, {"0": SIX})
        found = found.get("model", found)
        assert list(found) == ["scale", "a.weight", "a.kept", "b.weight", "b.kept"]
        assert found["b.weight"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["a.kept"].tolist() == [1, 2]


def test_modules_that_contain_themselves_end(load, monkeypatch):
    monkeypatch.setattr(modules, "MOST_ENTRIES", 5000)
    parts = mapping(_parameters=b"}", _buffers=b"}", _modules=mapping(a=b"h\x07"))
    ring = named("__main__.Net") + b")\x81q\x07" + parts + b"b"
    with pytest.raises(ValueError, match="modules are nested without end"):
        load(ring)
    for doubling, storages in ((a_module(mapping(w=tensor(storage("0", 6)))), {"0": SIX}), (a_module(), {})):
        for _ in range(40):
            doubling = doubling + b"q\x090" + a_module(modules=mapping(a=b"h\x09", b=b"h\x09"))
        with pytest.raises(ValueError, match="modules are nested without end"):
            load(doubling, storages)


def test_whole_modules_and_checkpoints_of_pytorch_itself(thin, torch_files, thin_weights, tmp_path):
    torch = pytest.importorskip("torch")
    from experiments.torch_peer import Net
    from jaxnets.models.conv_stack import BACKBONES

    net = Net(BACKBONES[thin], channels=2, size=12, outputs=3)
    net.load_state_dict(torch.load(torch_files / "legacy.pth"))
    averaged = torch.optim.swa_utils.AveragedModel(net)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 2, 12, 12)).sum().backward()
    optimizer.step()
    net.load_state_dict(torch.load(torch_files / "legacy.pth"))
    beside = {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "size": torch.Size([1]),
        "generator": torch.get_rng_state(),
        "optimizer": optimizer.state_dict(),
        "optimizer itself": optimizer,
        "meta": torch.ones(3, device="meta"),
        "sparse": torch.eye(2).to_sparse(),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "complex": torch.ones(3, dtype=torch.complex64),
        "uint16": torch.ones(3, dtype=torch.uint16),
    }
    want = from_torch(thin, thin_weights)
    for legacy in (False, True):
        for content in (
            net,
            {"model": net, **beside},
            {"state_dict": net.state_dict(), **beside},
            averaged.state_dict(),
            {"model": averaged},
            {"state_dict": {f"model.{name}": value for name, value in net.state_dict().items()}},
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
            got = from_torch(thin, tmp_path / "net.pth")
            assert jax.tree.all(jax.tree.map(np.array_equal, got, want))


def test_files_of_pytorch_without_checksums(thin, thin_weights, tmp_path):
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({name: torch.from_numpy(value) for name, value in thin_weights.items()}, tmp_path / "net.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, from_torch(thin, tmp_path / "net.pth"), from_torch(thin, thin_weights))
    )
