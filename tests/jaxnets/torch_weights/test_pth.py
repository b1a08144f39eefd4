"""Files of PyTorch made by hand: every dtype, view, order of bytes and age."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.torch_weights import read
from tests.jaxnets.torch_weights.pickling import SIX, call, lit, mapping, storage, tensor, write


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
    body = mapping(
        a=tensor(storage("7", 6), 0, (3,), (1,)),
        b=tensor(storage("7", 6), 3, (3,), (1,)),
    )
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
        oldest=call(
            "torch._utils._rebuild_tensor",
            storage("0", 6),
            lit(0),
            call("torch.Size", lit((6,))),
            lit((1,)),
        ),
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
