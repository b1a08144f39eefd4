"""What is exported equals the network on this machine, in both formats, for any number of images."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import create, export
from jaxnets.export.program import Program
from jaxnets.losses import cosines
from jaxnets.models.conv_stack import Backbone, ConvStack
from jaxnets.models.mobilenet_v2 import MobileNetV2
from jaxnets.models.mynn import Mynn
from jaxnets.models.regnet import RegNetX
from jaxnets.models.resnet import ResNet
from jaxnets.models.vgg import VGG

CLOSE = 1e-5  # of the largest value
THIN = ConvStack(Backbone(((4, 5, 2), "M", (6, 3, 1), (5, 3, 0), "M")), 2)
SHAPE = (13, 15, 2)
QUICK = {"xla_backend_optimization_level": 0}  # so that tests compile in less time


def randomised(model, shape):
    """Variables as training might leave them: no number is the one of initialisation, and no layer mutes the next."""
    abstract = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))
    rng = np.random.default_rng(1)

    def leaf(path, like):
        if path[-1].key == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(like.shape[:-1])), like.shape).astype(np.float32)
        low, high = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "slope": (0.1, 0.4)}.get(path[-1].key, (-0.3, 0.3))
        return rng.uniform(low, high, like.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def pixels(shape, count):
    return np.random.default_rng(2).integers(0, 256, (count, *shape), np.uint8)


def natively(model, variables, images):
    """On this platform, in a batch so large that the CPU's own convolutions are taken."""
    floats = np.concatenate([images] * (1 + 16 // len(images))).astype(np.float32) / np.float32(255)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=False), compiler_options=QUICK)
    return np.asarray(apply(variables, floats))[: len(images)]


def by_stablehlo(program):
    run = jax.jit(export.load_stablehlo(export.export_stablehlo(program)), compiler_options=QUICK)
    return lambda images: np.asarray(run(images))


def by_onnx(program):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    content = export.export_onnx(program)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run([program.output], {"images": images})[0]


FORMATS = pytest.mark.parametrize("by", [by_stablehlo, by_onnx], ids=["stablehlo", "onnx"])


def assert_close(got, want):
    assert got.dtype == np.float32 and got.shape == want.shape and np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE * np.abs(want).max())


@FORMATS
@pytest.mark.parametrize("head", ["linear", "conv"])
def test_embeddings_and_scores_for_any_number_of_images(by, head):
    model = ConvStack(Backbone(THIN.backbone.layers, head), 2)
    variables, images = randomised(model, SHAPE), pixels(SHAPE, 7)
    embeddings = natively(model, variables, images)
    width = embeddings.shape[1]
    for shape in ((5, width), (5, 3, width)):  # one direction a class, and three
        class_weights = np.random.default_rng(3).normal(size=shape).astype(np.float32)
        scores = np.asarray(cosines(embeddings, class_weights))
        run = by(export.scores(model, variables, SHAPE, class_weights))
        assert_close(run(images), scores)
        assert_close(run(images[:1]), scores[:1])
    run = by(export.embeddings(model, variables, SHAPE))
    assert_close(run(images), embeddings)
    assert_close(run(images[:1]), embeddings[:1])


@FORMATS
@pytest.mark.parametrize("name", ["v0", "v1_2_3", "v1_1_3"])
def test_networks_of_the_study(by, name):
    model, shape = create(name), (28, 28, 1)
    variables, images = randomised(model, shape), pixels(shape, 7)
    embeddings = natively(model, variables, images)
    assert_close(by(export.embeddings(model, variables, shape))(images), embeddings)
    class_weights = np.random.default_rng(3).normal(size=(10, 2)).astype(np.float32)
    assert_close(by(export.scores(model, variables, shape, class_weights))(images), cosines(embeddings, class_weights))


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (Mynn(), 16),
        (Mynn(relu=True), 16),
        (ResNet((1, 1, 1, 1), bottleneck=True), 32),
        (RegNetX((1, 2), (16, 32), 8), 16),
        (MobileNetV2(), 32),
        (VGG((4, "M", 6, "M"), hidden=5), 28),
        (VGG((4, "M", 6, "M"), hidden=5), 20),
    ],
    ids=["mynn", "mynn_relu", "resnet", "regnet", "mobilenet", "vgg", "vgg_averaged"],
)
def test_classifiers_give_their_scores(model, size):
    shape = (size, size, 3)
    variables, images = randomised(model, shape), pixels(shape, 3)
    program, want = export.scores(model, variables, shape), natively(model, variables, images)
    assert_close(by_stablehlo(program)(images), want)
    run = by_onnx(program)  # or the test ends here, as skipped
    assert_close(run(images), want)
    assert_close(run(images[:1]), want[:1])


def operations(program):
    """How often each of JAX's operations is in a traced program."""
    names = re.findall(r" = (\w+)", str(program.trace()))
    return {name: names.count(name) for name in set(names)}


def test_the_program_is_the_same_wherever_it_is_exported(monkeypatch):
    """Off the CPU too, and of plain convolutions in full precision, though the CPU has others of its own."""
    program = export.embeddings(THIN, randomised(THIN, SHAPE), SHAPE)
    on_cpu = jax.default_backend
    texts = []
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        texts.append(str(program.trace()))
        assert jax.default_backend() == platform  # it is left as it was
    monkeypatch.setattr(jax, "default_backend", on_cpu)
    assert texts[0] == texts[1] == texts[2]
    found = operations(program)
    assert found["conv_general_dilated"] == 3 and found["dot_general"] == 1 and "transpose" not in found
    assert texts[0].count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 4

    grouped = export.scores(MobileNetV2(), randomised(MobileNetV2(), (32, 32, 3)), (32, 32, 3))
    found = operations(grouped)
    assert found["conv_general_dilated"] == 52 and found["dot_general"] == 1


def test_stablehlo_is_for_three_platforms():
    content = export.export_stablehlo(export.embeddings(THIN, randomised(THIN, SHAPE), SHAPE))
    exported = jax.export.deserialize(bytearray(content))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval) for aval in exported.in_avals] == ["uint8[N,13,15,2]"]
    assert [str(aval) for aval in exported.out_avals] == ["float32[N,2]"]


@pytest.mark.parametrize("content", [b"", b"no program", bytes(1000)], ids=["empty", "text", "zeros"])
def test_other_bytes_are_no_program(content):
    with pytest.raises(ValueError, match="these bytes are no program that JAX exported"):
        export.load_stablehlo(content)


def test_scores_are_scaled_and_class_weights_have_unit_length():
    onnx = pytest.importorskip("onnx")
    variables, images = randomised(THIN, SHAPE), pixels(SHAPE, 2)
    class_weights = np.array([[3, 4], [0, -2], [5, 12]], np.float32)
    program = export.scores(THIN, variables, SHAPE, class_weights, scale=2.5)
    assert_close(
        by_stablehlo(program)(images), 2.5 * np.asarray(cosines(natively(THIN, variables, images), class_weights))
    )

    model = onnx.load_from_string(export.export_onnx(export.scores(THIN, variables, SHAPE, class_weights)))
    constants = [onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer]
    unit = np.array([[3 / 5, 0, 5 / 13], [4 / 5, -1, 12 / 13]])
    assert sum(array.shape == (2, 3) and np.allclose(array, unit, atol=1e-6) for array in constants) == 1


def test_weights_of_other_dtypes_are_widened():
    variables, images = randomised(THIN, SHAPE), pixels(SHAPE, 2)
    stored = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), variables)
    widened = jax.tree.map(lambda leaf: leaf.astype(np.float32), stored)
    got = by_stablehlo(export.embeddings(THIN, stored, SHAPE))(images)
    assert_close(got, natively(THIN, widened, images))


def test_an_onnx_model_names_and_types_what_it_takes_and_gives():
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    content = export.export_onnx(export.embeddings(THIN, randomised(THIN, SHAPE), SHAPE))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [taken], [given] = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["N", 13, 15, 2])
    assert (given.name, given.type, given.shape) == ("embeddings", "tensor(float)", ["N", 2])
    model = onnx.load_from_string(content)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert [node.op_type for node in model.graph.node].count("Conv") == 3
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Unexpected input data type"):
        session.run(None, {"images": pixels(SHAPE, 1).astype(np.float32) / 255})


X = np.random.default_rng(4).normal(size=(4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1) * jnp.sqrt(x) - x / 3,
        lambda x: jnp.where(x > 100, x, 3 * x) + jnp.where(x >= 7, 1.0, 0.0) + jnp.where(x <= 9, 2.0, 0.0),
        lambda x: jnp.clip(x, 50, 200) ** 3,
        lambda x: x * X[None, 0, :3, :3, None] + jnp.arange(2, dtype=jnp.float32)[None, None, None, :],
        lambda x: jnp.einsum("nhwc,hwk->nk", x, jnp.broadcast_to(jnp.asarray(X[0, :3, :1, None]), (3, 3, 4))),
        lambda x: lax.slice_in_dim(lax.slice_in_dim(x, 1, 3, axis=1), 0, 3, 2, axis=2),
        lambda x: x.reshape(x.shape[0], 9, 2).transpose(0, 2, 1),
        lambda x: jnp.squeeze(lax.slice_in_dim(x, 0, 1, axis=1), 1).sum((1, 2)) + x.max((1, 2, 3)),
        lambda x: jnp.einsum("nhwc,cij->nijhw", x, X[:2]),
        lambda x: x.reshape(x.shape[0], 18) @ X[:3].reshape(18, 5) @ X[0, :, :5].T,
        lambda x: jnp.matmul(x, jnp.broadcast_to(jnp.asarray(X[0, 0, :2]), (1, 1, 2, 2))[0, 0]),
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 0), (0, 0))),
        lambda x: lax.conv_general_dilated(
            x, X[:2, :2, :6].reshape(2, 2, 1, 6), (1, 2), ((1, 0), (2, 1)), rhs_dilation=(2, 1), feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        lambda x: lax.conv(x.transpose(0, 3, 1, 2), X[:2, :4, :4].reshape(2, 2, 2, 4), (1, 1), "SAME"),
        lambda x: jax.jit(jax.nn.relu)(x - 100) + jnp.float32(np.pi),
    ],
    ids=[
        "arithmetic", "comparison", "power", "broadcast", "broadcast_constant", "slice", "reshape", "reduce", "einsum",
        "matmul", "expand", "max_pool", "grouped_convolution", "channels_first", "functions_within",
    ],
)  # fmt: skip
def test_each_operation_in_onnx(function):
    images = pixels((3, 3, 2), 4)
    program = Program(lambda weights, images: function(images.astype(jnp.float32)), {}, (3, 3, 2), "scores")
    want = np.asarray(jax.jit(program.apply)({}, images))
    run = by_onnx(program)
    assert_close(run(images), want)
    assert_close(run(images[:1]), want[:1])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (jnp.sin, "JAX's operation sin"),
        (lambda x: lax.cumsum(x, 1), "JAX's operation cumsum"),
        (lambda x: jnp.concatenate([x, jnp.zeros((*x.shape[:3], 1))], 3), "JAX's operation concatenate"),
        (lambda x: lax.select_n(x.astype(jnp.int32) % 3, x, x, x), "JAX's operation rem"),
        (lambda x: lax.select_n((x > 0).astype(jnp.int32), x, x + 1), "no choice by number"),
        (lambda x: jnp.zeros(x.shape), "repeated for each image"),
        (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1, 1), (1, 2, 1, 1), "VALID"), "over windows other"),
        (lambda x: lax.conv_transpose(x, X[:2, :2, :2, None], (2, 2), "SAME"), "nor a transposed one"),
    ],
    ids=["sin", "cumsum", "concatenate", "rem", "select", "repeat", "window", "transposed"],
)
def test_what_onnx_is_not_given_is_refused_by_name(function, words):
    pytest.importorskip("onnx")
    program = Program(lambda weights, images: function(images.astype(jnp.float32)), {}, (3, 3, 2), "scores")
    with pytest.raises(NotImplementedError, match=words):
        export.export_onnx(program)


def test_without_the_extra_onnx_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxnets\[onnx\]'"):
        export.export_onnx(export.embeddings(THIN, randomised(THIN, SHAPE), SHAPE))
