"""ONNX: each of StableHLO's operations that it takes, the model's interface, and what is refused in a sentence."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import lax

from jaxnets import export
from jaxnets.export.onnx.graph import Unsupported, with_constants
from jaxnets.export.onnx.operators import OPERATORS
from jaxnets.export.program import Program

SHAPE = (3, 3, 2)
X = np.random.default_rng(4).normal(size=(4, 5, 6)).astype(np.float32)


def program_of(function):
    return Program(lambda weights, images: function(images.astype(jnp.float32)), {}, SHAPE, "scores")


def elementwise(x):
    """Every operation of one element to one, one after the other along the channels."""
    y = x / 64 - 2  # of both signs
    whole = y.astype(jnp.int32)
    odd = whole % 2 == 1
    small = (whole >= -1) & (whole < 2)
    numbers = [
        *(jnp.abs(y), jnp.ceil(y), jnp.floor(y), jnp.cos(y), jnp.sin(y), jnp.tan(y), jnp.tanh(y), jnp.exp(y)),
        *(jnp.log(x + 1), jax.nn.sigmoid(y), -y, jnp.power(x + 1, y), lax.rem(y, jnp.full_like(y, 0.75))),
        *(lax.round(y, lax.RoundingMethod.TO_NEAREST_EVEN), lax.rsqrt(x + 1), jnp.sqrt(x), jnp.sign(y), lax.erf(y)),
        *(jnp.maximum(y, -1), jnp.minimum(y, 1), jnp.clip(y, -1, 1), (x + 1) * y - x / 3, jnp.square(y) * y**3),
        *(jnp.where(odd, y, 2 * y), jnp.where(jnp.isfinite(jnp.log(x)), y, 7)),
        *(odd & small, odd | small, odd ^ small, ~odd, jnp.maximum(odd, small), jnp.minimum(odd, small)),
        *(whole == 1, whole != 1, y > 0.3, y >= 0.3, y < 0.3, y <= 0.3, whole),
        lax.optimization_barrier(y),
    ]
    return jnp.concatenate([number.astype(jnp.float32) for number in numbers], axis=3)


FUNCTIONS = {
    "elementwise": elementwise,
    "broadcast": lambda x: x * X[None, 0, :3, :3, None] + jnp.arange(2, dtype=jnp.float32)[None, None, None, :],
    "counting": lambda x: x + lax.broadcasted_iota(jnp.float32, x.shape, 2),
    "images for each": lambda x: jnp.zeros(x.shape) + jnp.ones(x.shape),
    "images twice": lambda x: lax.transpose(
        jnp.broadcast_to(x[:, None], (x.shape[0], x.shape[0], *SHAPE)), (1, 0, 2, 4, 3)
    ).reshape(x.shape[0], x.shape[0], 18),
    "images turned": lambda x: jnp.broadcast_to(x.sum((2, 3))[:, :, None], (x.shape[0], 3, x.shape[0])).reshape(
        x.shape[0], x.shape[0], 3
    ),
    "einsum": lambda x: jnp.einsum("nhwc,hwk->nk", x, jnp.broadcast_to(jnp.asarray(X[0, :3, :1, None]), (3, 3, 4))),
    "slice": lambda x: lax.slice_in_dim(lax.slice_in_dim(x, 1, 3, axis=1), 0, 3, 2, axis=2),
    "slice of constants": lambda x: x * lax.slice(jnp.asarray(X), (0, 1, 2), (1, 4, 5), (1, 1, 2)).reshape(1, 3, 1, 2),
    "images but the first": lambda x: lax.slice_in_dim(x, 0, x.shape[0] - 1) - lax.slice_in_dim(x, 1, x.shape[0]),
    "reshape": lambda x: x.reshape(x.shape[0], 9, 2).transpose(0, 2, 1),
    "reduce": lambda x: x.sum((1, 2)) + x.max((1, 2)) - x.min((1, 2)) + (x / 99).prod((1, 2)),
    "mean": lambda x: x - x.mean((1, 2, 3), keepdims=True),
    "outer": lambda x: jnp.einsum("nhwc,cij->nijhw", x, X[:2]),
    "batched": lambda x: jnp.einsum("nhwc,nhvc->nhwv", x, x + 1),
    "matmul": lambda x: x.reshape(x.shape[0], 18) @ X[:3].reshape(18, 5) @ X[0, :, :5].T,
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=3),
    "max_pool": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 0), (0, 0))
    ),
    "grouped_convolution": lambda x: lax.conv_general_dilated(
        x, X[:2, :2, :6].reshape(2, 2, 1, 6), (1, 2), ((1, 0), (2, 1)), rhs_dilation=(2, 1), feature_group_count=2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ),
    "channels_first": lambda x: lax.conv(x.transpose(0, 3, 1, 2), X[:2, :4, :4].reshape(2, 2, 2, 4), (1, 1), "SAME"),
    "functions_within": lambda x: jax.jit(jax.nn.relu)(x - 100) + jnp.float32(np.pi),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_operation(name, exporting):
    program, images = program_of(FUNCTIONS[name]), exporting.pixels(SHAPE, 4)
    want = np.asarray(jax.jit(program.apply)({}, images))
    run = exporting.by["onnx"](program)
    exporting.assert_close(run(images), want)
    if name == "images turned":
        assert run(images[:0]).shape == (0, 0, 3)  # a length of 0 is one, and no sign to copy another
    if "images" not in name:
        exporting.assert_close(run(images[:1]), want[:1])


def test_the_functions_above_have_each_operation():
    found = set()
    for function in FUNCTIONS.values():
        found |= set(re.findall(r"stablehlo\.(\w+)", program_of(function).lowered(["cpu"]).mlir_module()))
    assert set(OPERATORS) - found == set()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x[:, 0], "StableHLO's operation dynamic_gather"),
        (lambda x: jnp.cbrt(x), "StableHLO's operation cbrt"),
        (lambda x: lax.cumsum(x, 1), "a reduction over windows other than max-pooling of images"),
        (lambda x: jnp.argmax(x, 1).astype(jnp.float32), "StableHLO's operation reduce of several results"),
        (lambda x: (x > 1).any(1).astype(jnp.float32), "a reduction other than sum, product, maximum and minimum of "),
        (lambda x: lax.reduce(x, jnp.float32(0), lambda a, b: lax.neg(a + b), (1,)), "a reduction other than sum"),
        (lambda x: lax.reduce(x, jnp.float32(1), lax.add, (1,)), "a reduction that starts from an element of its own"),
        (lambda x: lax.reduce_window(x, 0.0, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), "an element of its own"),
        (lambda x: (x.astype(jnp.int32) & 3).astype(jnp.float32), "and of integers"),
        (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]), "padding between elements"),
        (lambda x: lax.broadcasted_iota(jnp.float32, x.shape, 0), "counting the images"),
        (
            lambda x: (x.astype(jnp.float8_e4m3fn) * x.astype(jnp.float8_e4m3fn)).astype(jnp.float32),
            "an array of f8E4M3FN",
        ),
        (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1, 1), (1, 2, 1, 1), "VALID"), "over windows other"),
        (lambda x: lax.conv_transpose(x, X[:2, :2, :2, None], (2, 2), "SAME"), "or a transposed one"),
    ],
    ids=[
        *(
            "gather",
            "cbrt",
            "cumsum",
            "argmax",
            "any",
            "negated",
            "start",
            "start of windows",
            "bits",
            "interior",
            "images",
            "float8",
            "window",
        ),
        "transposed",
    ],
)
def test_what_is_not_supported_is_one_sentence(function, words):
    with pytest.raises(NotImplementedError) as error:
        export.export_onnx(program_of(function))
    message = str(error.value)
    assert message.startswith("cannot export to ONNX: ") and words in message and message.endswith(" is not supported")


def test_the_models_interface_and_its_nodes(exporting):
    class_weights = np.array([[3, 4], [0, -2], [5, 12]], np.float32)
    content = export.export_onnx(export.scores(exporting.thin, exporting.variables, exporting.shape, class_weights))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [taken], [given] = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["N", 13, 15, 2])
    assert (given.name, given.type, given.shape) == ("scores", "tensor(float)", ["N", 3])
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Unexpected input data type"):
        session.run(None, {"images": exporting.images.astype(np.float32) / 255})

    model = onnx.load_from_string(content)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    nodes = [node.op_type for node in model.graph.node]
    assert (nodes.count("Conv"), nodes.count("MaxPool"), nodes.count("MatMul")) == (3, 2, 2)
    # Arithmetic of weights alone is done, and no shape is computed.
    assert set(nodes).isdisjoint({"Shape", "Concat", "Expand", "Slice", "Reciprocal", "Einsum"})
    constants = [onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer]
    unit = np.array([[3 / 5, 0, 5 / 13], [4 / 5, -1, 12 / 13]])
    assert sum(array.shape == (2, 3) and np.allclose(array, unit, atol=1e-6) for array in constants) == 1


ARRAYS = {
    "matrix": X[0],
    "transposed": X.transpose(2, 0, 1),
    "number": np.array(1.5, np.float64),
    # A length of 127 bytes is written in one byte, of 128 in two, and of 2¹⁴ in three.
    **{f"{length} bytes": np.resize(np.arange(100, dtype=np.int8), length) for length in (127, 128, 2**14)},
    "nothing": np.zeros((0, 3), np.float32),
    "truths": np.array([[True], [False]]),
    "brief": np.asarray(jnp.arange(3, dtype=jnp.bfloat16)),
}


def test_a_file_has_the_bytes_of_protobufs_own_objects():
    def described(name, like):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, like)

    graph = onnx.helper.make_graph([], "nothing", [described("a", ["N"])], [described("a", ["N"])])
    model = onnx.helper.make_model(graph, producer_name="it")
    content = with_constants(model, ARRAYS)
    got = onnx.load_from_string(content)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in ARRAYS.items())
    assert got == model and len(content) == len(model.SerializeToString())
    for tensor, array in zip(got.graph.initializer, ARRAYS.values(), strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), array, strict=True)


def test_a_file_that_protobuf_would_not_read_is_refused():
    huge = np.broadcast_to(np.float32(0), (2**19, 2**10))  # one number in memory
    with pytest.raises(Unsupported, match=r"^a model of 2\.0 GiB \(a file holds less than 2\)$"):
        with_constants(onnx.ModelProto(), {"huge": huge})


def test_without_the_extra_onnx_says_what_to_install(exporting, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxnets\[onnx\]'"):
        export.export_onnx(export.embeddings(exporting.thin, exporting.variables, exporting.shape))
