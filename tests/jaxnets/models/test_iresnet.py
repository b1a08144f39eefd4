"""IResNet gives PyTorch's numbers with PyTorch's weights, under the names of insightface and under those of AdaFace."""

import json
from functools import partial
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from jaxnets.models.iresnet import IResNet
from jaxnets.torch_weights import from_torch, to_torch
from tests.fixtures import make_iresnets as script

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = np.load(FIXTURES / "iresnets.npz")
PARAMETERS = {"iresnet18": 24_025_600, "iresnet34": 34_139_328, "iresnet50": 43_590_848, "iresnet100": 65_156_160}
FORMS = ("insightface", "adaface")
QUICK = {"xla_backend_optimization_level": 0}

THIN = IResNet(script.DEPTHS, script.WIDTHS, script.OUTPUTS)
apply_thin = jax.jit(partial(THIN.apply, train=False), compiler_options=QUICK)


@pytest.fixture
def thin(monkeypatch):
    """The name of a network as small as the fixture's."""
    name = "iresnet_thin"
    make = partial(IResNet, script.DEPTHS, script.WIDTHS)
    monkeypatch.setattr(models, "NAMES", (*models.NAMES, name))
    monkeypatch.setitem(models._NETWORKS, name, make)
    monkeypatch.setitem(models.IRESNETS, name, script.DEPTHS)
    return name


def weights(form, dtype=np.float32):
    shapes = json.loads(str(RECORDED[f"{form}/shapes"]))
    return {key: script.networks.weights(key, tuple(shape)).astype(dtype) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_insightfaces(name):
    outputs, variables = jax.eval_shape(
        lambda key: models.create(name, 512).init_with_output(key, jnp.zeros((1, 112, 112, 3))), jax.random.key(0)
    )
    assert outputs.shape == (1, 512) and outputs.dtype == jnp.float32
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("form", FORMS)
def test_embeddings_are_pytorchs(form, thin):
    """To 1e-4 in float32."""
    variables = from_torch(thin, weights(form))
    embeddings = apply_thin(variables, script.networks.images(*script.SIZE))
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(embeddings, RECORDED[f"{form}/eval"], rtol=1e-4, atol=1e-4)


def test_gradients_and_statistics_in_training_are_pytorchs(thin):
    """In float64. The scale of `features` has no gradient."""
    with jax.enable_x64(True):
        given = from_torch(thin, weights("insightface", np.float64))
        images = script.networks.images(*script.SIZE).astype(np.float64)

        def loss(params):
            outputs, updated = THIN.apply(given | {"params": params}, images, train=True, mutable=["batch_stats"])
            direction = script.networks.direction("scores", outputs.shape).astype(np.float64)
            return (outputs * direction).sum(), (outputs, updated)

        gradients, (outputs, updated) = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(given["params"])
        arrays = to_torch(thin, {"params": gradients, **updated})
    np.testing.assert_allclose(outputs, RECORDED["train"], rtol=1e-8)
    np.testing.assert_array_equal(arrays.pop("features.weight"), 0)
    for what in ("statistics", "gradients"):
        own = {k: v for k, v in arrays.items() if ("running" in k) == (what == "statistics") and "tracked" not in k}
        assert len(RECORDED[what]) == len(own)
        for key, (product, norm), wanted in zip(sorted(own), script.networks.summary(own), RECORDED[what], strict=True):
            # BatchNorm takes out what is added before it: some gradients are 0 but for rounding.
            np.testing.assert_allclose([product, norm], wanted, rtol=0, atol=1e-8 * wanted[1] + 1e-12, err_msg=key)


def test_names_are_insightfaces(thin):
    theirs = weights("insightface")
    back = to_torch(thin, from_torch(thin, {f"module.{key}": value for key, value in theirs.items()}))
    back = {key: value for key, value in back.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_an_adaface_checkpoint_is_read_with_its_head(thin):
    """Lightning's: a prefix, the head's kernel [D, C] and its statistics, other things beside the state dict."""
    kernel = np.arange(script.OUTPUTS * 7, dtype=np.float32).reshape(script.OUTPUTS, 7)
    state = {f"model.{key}": value for key, value in weights("adaface").items()}
    state |= {"head.kernel": kernel, "head.t": np.zeros(1), "head.batch_mean": np.ones(1), "head.batch_std": np.ones(1)}
    found = from_torch(thin, {"epoch": 3, "state_dict": state})
    np.testing.assert_array_equal(found.pop("head")["class_weights"], kernel.T)
    jax.tree.map(np.testing.assert_array_equal, found, from_torch(thin, weights("adaface")))
    np.testing.assert_array_equal(found["params"]["layer1_0"]["downsample_0"]["kernel"][0, 0], np.eye(8))


def test_what_an_adaface_file_lacks_is_named(thin):
    state = weights("adaface")
    state["body.9.res_layer.0.weight"] = state.pop("body.1.res_layer.1.weight")
    with pytest.raises(ValueError, match=r"missing: layer1\.1\.conv1\.weight.*not expected: body\.9\.res_layer"):
        from_torch(thin, state)


def test_images_of_another_size_are_refused(thin):
    variables = from_torch(thin, weights("insightface"))
    with pytest.raises(ValueError, match="whose last map has 6 pixels, and 64×48 make 12"):
        jax.eval_shape(partial(THIN.apply, variables), np.zeros((1, 64, 48, 3), np.float32))


def test_bfloat16_and_dropout():
    """The result is float32; dropping inputs of `fc` needs an rng, and in training alone."""
    module = THIN.clone(dropout=0.5, dtype=jnp.bfloat16)
    images = script.networks.images(*script.SIZE)
    outputs, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), images))
    assert outputs.dtype == jnp.float32
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(partial(module.apply, train=True, mutable=["batch_stats"]), variables, images)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_equals_pytorch_at_full_size_where_it_is_installed(form):
    pytest.importorskip("torch")
    size, name = (1, 112, 112), "iresnet18"
    make = script.build if form == "insightface" else script.build_adaface
    theirs = make(models.IRESNETS[name], (64, 128, 256, 512), 512, size[1:])
    images = script.networks.images(*size)
    state = {key: script.networks.weights(key, tuple(s)) for key, s in script.networks.shapes(theirs).items()}
    ours = jax.jit(models.create(name, 512).apply, compiler_options=QUICK)(from_torch(name, state), images)
    wanted = script.networks.inference(theirs, script.centred(images))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
