"""The gender study's networks give PyTorch's numbers with PyTorch's weights: scores, gradients, running statistics.

torchvision's own code made the fixture, and is run where it is installed. Mynn in its forms, which it does not have, is
made of PyTorch's layers.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.models import create
from jaxnets.torch_weights import from_torch, to_torch
from tests.fixtures import make_torchvision_networks as script

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = np.load(FIXTURES / "torchvision_networks.npz")
NETWORKS = ["mynn", "mynn_relu", "mynn_deep", "resnet18", "resnet50", "regnet_x_400mf", "mobilenet_v2", "vgg16"]
LIVE_SIZES = {"mynn": (2, 24, 40), "mynn_relu": (17, 8, 16)}  # others are run at 3 images of 40×64


def network(name):
    module = create(name)
    return module.clone(dropout=0.0) if hasattr(module, "dropout") else module


def variables(name, shapes, dtype):
    """The weights that the script makes for the names and shapes of PyTorch's state dict, as ours."""
    return from_torch(
        name, {key: script.weights(key, tuple(shape)).astype(dtype, copy=False) for key, shape in shapes.items()}
    )


def check_inference(name, shapes, images, theirs):
    """To 1e-4 in float32; less than 2e-6 was measured."""
    scores = jax.jit(network(name).apply)(variables(name, shapes, np.float32), images)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, theirs, rtol=1e-4, atol=1e-4)


def check_training(name, shapes, images, theirs):
    """In float64: the gradient jumps where rounding moves a maximum or a ReLU. Less than 1e-9 was measured."""
    quick = {"xla_backend_optimization_level": 0}
    with jax.enable_x64(True):
        given, module = variables(name, shapes, np.float64), network(name)

        def loss(params):
            scores, updated = module.apply(
                given | {"params": params}, images.astype(np.float64), train=True, mutable=["batch_stats"]
            )
            return (scores * script.direction("scores", scores.shape).astype(np.float64)).sum(), (scores, updated)

        gradients, (scores, updated) = jax.jit(jax.grad(loss, has_aux=True), compiler_options=quick)(given["params"])
        arrays = to_torch(name, {"params": gradients, "batch_stats": updated.get("batch_stats", {})})
    np.testing.assert_allclose(scores, theirs["train"], rtol=1e-8)
    statistics = {key: array for key, array in arrays.items() if "running" in key}
    gradients = {key: array for key, array in arrays.items() if "running" not in key and "tracked" not in key}
    for what, ours in (("statistics", statistics), ("gradients", gradients)):
        assert len(theirs[what]) == len(ours)
        for key, (product, norm), wanted in zip(sorted(ours), script.summary(ours), theirs[what], strict=True):
            # BatchNorm takes out what is added before it: some gradients are 0 but for rounding.
            close = {"rtol": 0, "atol": 1e-8 * wanted[1] + 1e-12, "err_msg": f"{what} {key}"}
            np.testing.assert_allclose([product, norm], wanted, **close)


def recorded(name):
    return json.loads(str(RECORDED[f"{name}/shapes"])), script.images(*script.SIZES[name])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("resnet50", "vgg16") else ()) for name in NETWORKS]
)
def test_scores_are_torchvisions(name):
    check_inference(name, *recorded(name), RECORDED[f"{name}/eval"])


QUICK = ("mynn", "resnet18", "mobilenet_v2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NETWORKS[:-1]]
)
def test_scores_gradients_and_statistics_in_training_are_torchvisions(name):
    theirs = {what: RECORDED[f"{name}/{what}"] for what in ("train", "gradients", "statistics")}
    check_training(name, *recorded(name), theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_torchvision_where_it_is_installed(name):
    pytest.importorskip("torchvision")
    size = LIVE_SIZES.get(name, (3, 40, 64))
    images, theirs = script.images(*size), script.build(name, *size[1:])
    check_inference(name, script.shapes(theirs), images, script.inference(theirs, images))
    if name in ("mynn", "resnet18"):
        check_training(name, script.shapes(theirs), images, script.training(theirs, images))
