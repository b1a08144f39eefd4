"""Every network of the project in both formats: equal to the network on this machine, for any number of images."""

import jax
import numpy as np
import pytest

from jaxnets import create, export
from jaxnets.losses import cosines
from jaxnets.models import IRESNETS, NAMES
from jaxnets.models.conv_stack import BACKBONES, Backbone, ConvStack
from jaxnets.models.iresnet import IResNet
from jaxnets.models.regnet import RegNetX
from jaxnets.models.resnet import ResNet
from jaxnets.models.vgg import VGG

FORMATS = pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
SIZES = {"mynn": 16, "mynn_relu": 16, "vgg16": 64}  # pixels a side of the classifiers' images, 32 for the others
# Variants of one architecture are one network.
STUDY = {backbone: name for name, backbone in reversed(BACKBONES.items())}
QUICK = ("v0", "v1_1_3", "mynn", "mynn_relu")


@FORMATS
@pytest.mark.parametrize("head", ["linear", "conv", "mean"])
def test_embeddings_and_scores_for_any_number_of_images(kind, head, exporting):
    by, shape, images = exporting.by[kind], exporting.shape, exporting.images
    model = ConvStack(Backbone(exporting.thin.backbone.layers, head), 2)
    variables = exporting.randomised(model, shape)
    embeddings = exporting.natively(model, variables, images)
    width = embeddings.shape[1]
    for weights_shape in ((5, width), (5, 3, width)):  # one direction a class, and three
        class_weights = np.random.default_rng(3).normal(size=weights_shape).astype(np.float32)
        scores = np.asarray(cosines(embeddings, class_weights))
        run = by(export.scores(model, variables, shape, class_weights))
        exporting.assert_close(run(images), scores)
        exporting.assert_close(run(images[:1]), scores[:1])
        assert run(images[:0]).shape == (0, 5)
    run = by(export.embeddings(model, variables, shape))
    exporting.assert_close(run(images), embeddings)
    exporting.assert_close(run(images[:1]), embeddings[:1])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in (*STUDY.values(), *(name for name in NAMES if name not in (*BACKBONES, *IRESNETS)))
    ],
)
def test_every_network_in_onnxruntime(name, exporting, tmp_path):
    size = SIZES.get(name, 32)
    model, shape = create(name, 3), (28, 28, 1) if name in BACKBONES else (size, size, 3)
    variables, images = jax.device_put(exporting.randomised(model, shape)), exporting.pixels(shape, 3)  # VGG16's once
    want = exporting.natively(model, variables, images)
    convert = export.embeddings if name in BACKBONES else export.scores
    file = tmp_path / "model.onnx"
    file.write_bytes(export.export_onnx(convert(model, variables, shape)))
    del variables  # of VGG16 they take half a gigabyte, as the content does
    run = exporting.from_onnx(file)
    file.unlink()
    exporting.assert_close(run(images), want)
    exporting.assert_close(run(images[:1]), want[:1])


@pytest.mark.parametrize(
    ("kind", "model", "size"),
    [
        ("onnx", ResNet((1, 1, 1, 1), bottleneck=True), 32),
        ("onnx", RegNetX((1, 2), (16, 32), 8), 16),
        ("stablehlo", RegNetX((1, 2), (16, 32), 8), 16),
        ("onnx", IResNet((1, 1), (4, 6), 3), 16),
        ("stablehlo", IResNet((1, 1), (4, 6), 3), 16),
        ("onnx", VGG((4, "M", 6, "M"), hidden=5), 28),
        ("onnx", VGG((4, "M", 6, "M"), hidden=5), 20),
    ],
    ids=["resnet", "regnet", "regnet_stablehlo", "iresnet", "iresnet_stablehlo", "vgg", "vgg_averaged"],
)
def test_small_classifiers_of_every_kind(kind, model, size, exporting):
    shape = (size, size, 3)
    variables, images = exporting.randomised(model, shape), exporting.pixels(shape, 3)
    run = exporting.by[kind](export.scores(model, variables, shape))
    exporting.assert_close(run(images), exporting.natively(model, variables, images))


def test_weights_of_other_dtypes_are_widened(exporting):
    variables, images = exporting.variables, exporting.images
    stored = {name: _as(tree, np.float16) for name, tree in variables.items()}
    got = exporting.by["onnx"](export.embeddings(exporting.thin, stored, exporting.shape))(images)
    exporting.assert_close(got, exporting.natively(exporting.thin, _as(stored, np.float32), images))


def _as(tree, dtype):
    return {key: _as(leaf, dtype) if isinstance(leaf, dict) else leaf.astype(dtype) for key, leaf in tree.items()}


@pytest.mark.parametrize("convert", [export.embeddings, export.scores], ids=["embeddings", "scores"])
def test_weights_that_are_not_finite_are_refused(convert, exporting):
    variables = {**exporting.variables, "params": _as(exporting.variables["params"], np.float32)}
    variables["params"]["fc_0"]["kernel"][3, 1] = np.nan
    variables["params"]["fc_0"]["bias"][0] = np.inf
    with pytest.raises(ValueError, match=r"^the weights params/fc_0/bias hold numbers that are not finite: "):
        convert(exporting.thin, variables, exporting.shape)


def test_the_parameters_of_a_whole_state_are_refused(exporting):
    variables = {"params": {"net": exporting.variables["params"], "head": {}}}
    with pytest.raises(ValueError, match=r"^variables hold the parameters of a whole state: give \{'params': state"):
        export.embeddings(exporting.thin, variables, exporting.shape)


def test_class_weights_that_are_not_finite_are_refused(exporting):
    class_weights = np.array([[1, 2], [np.inf, 0]], np.float32)
    with pytest.raises(ValueError, match=r"^the class weights hold numbers that are not finite: "):
        export.scores(exporting.thin, exporting.variables, exporting.shape, class_weights)
