"""The ArcLoss study's backbones: sizes, PyTorch's behaviour of their layers, and the same numbers in either layout."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.models import NAMES, create
from jaxnets.models.conv_stack import BACKBONES, Backbone, ConvStack
from jaxnets.models.layers import ConvLayer, Linear

TORCH = np.load(Path(__file__).parents[1] / "fixtures" / "torch_layers.npz")
PARAMETERS = {
    "v0": 405_623,
    "v1": 15_211_243,
    "v1_1": 15_211_243,
    "v1_1_4": 15_211_243,
    "v1_1_2": 2_639_531,
    "v1_1_3": 2_642_603,
    "v1_2": 1_280_232,
    "v1_2_2": 797_608,
    "v1_2_3": 797_608,
    "v1_2_4": 797_608,
    "v2": 231_916,
    "v2_1": 231_916,
}


def abstract(module, shape=(1, 28, 28, 1)):
    return jax.eval_shape(lambda key: module.init_with_output(key, jnp.zeros(shape)), jax.random.key(0))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_and_shapes(name):
    outputs, variables = abstract(create(name))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    chex.assert_shape(outputs, (1, 2))
    outputs, _ = abstract(create(name, 7), (3, 28, 28, 1))
    chex.assert_shape(outputs, (3, 7))


def test_all_twelve_are_there_and_others_are_refused():
    assert set(BACKBONES) == set(PARAMETERS) and set(BACKBONES) < set(NAMES)
    with pytest.raises(ValueError, match="no network 'v1_2_33'; did you mean 'v1_2_3'"):
        create("v1_2_33")
    with pytest.raises(ValueError, match="num_outputs must be an integer of 1 or more, not 0"):
        create("v1_2_3", 0)
    with pytest.raises(ValueError, match="v1_2_3 computes in float32 alone"):
        create("v1_2_3", dtype="bfloat16")
    assert create("v1_2_3", dtype="float32") == create("v1_2_3")


# By hand: each pool halves, and v0's unpadded layers take two pixels each; v1_2's wider padding makes up for its pools.
SMALLEST = {"v0": 20, "v1": 16, "v1_1_2": 16, "v1_1_3": 16, "v1_2": 1, "v1_2_3": 8, "v2": 16, "mynn_deep": 8}


@pytest.mark.parametrize(("name", "size"), SMALLEST.items())
def test_images_that_the_layers_use_up_are_refused(name, size):
    outputs, _ = abstract(create(name), (1, size, size, 3))
    chex.assert_shape(outputs, (1, 2))
    with pytest.raises(ValueError, match=rf"at least {size}×{size}, not {size}×{size - 1}\b"):
        abstract(create(name), (1, size, size - 1, 3))


def test_initial_weights_follow_pytorchs_law():
    """Uniform in ±1/√fan_in: the bound is approached and never passed, the deviation is bound/√3; as PyTorch's own."""
    kernel = ConvLayer(64, 5, 2, "NHWC").init(jax.random.key(0), jnp.zeros((1, 8, 8, 32)), train=False)
    linear = Linear(200).init(jax.random.key(1), jnp.zeros((1, 1152)))["params"]
    for name, values, bound in (
        ("conv", kernel["params"]["kernel"], 800**-0.5),
        ("linear", linear["kernel"], 1152**-0.5),
        ("linear_bias", linear["bias"], 1152**-0.5),
    ):
        largest, deviation = float(jnp.abs(values).max()), float(values.std())
        torch_largest, torch_deviation = TORCH[f"init/{name}"]
        assert 0.97 * bound < largest <= bound * (1 + 1e-6)
        assert largest == pytest.approx(torch_largest, rel=0.03)
        assert deviation == pytest.approx(torch_deviation, rel=0.12 if name == "linear_bias" else 0.02)


def torch_variables():
    """The fixture's ConvLayer as ours."""
    params = {
        "kernel": TORCH["layer/0.weight"].transpose(2, 3, 1, 0),
        "scale": TORCH["layer/1.weight"],
        "bias": TORCH["layer/1.bias"],
        "slope": TORCH["layer/2.weight"][0],
    }
    stats = {"mean": TORCH["layer/1.running_mean"], "var": TORCH["layer/1.running_var"]}
    return jax.tree.map(jnp.asarray, params), jax.tree.map(jnp.asarray, stats)


@pytest.mark.parametrize("layout", ["NHWC", "HWCN"])
def test_conv_layer_equals_pytorchs(layout):
    """Outputs, running statistics (unbiased variance) and every gradient, over three batches and in inference."""
    layer = ConvLayer(6, 5, 2, layout, pool=True)
    order = [("N", "C", "H", "W").index(axis) for axis in layout]
    close = {"rtol": 2e-5, "atol": 2e-5}
    params, stats = torch_variables()

    def loss(params, x, weights, stats):
        y, updated = layer.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
        return (y * weights).sum(), (y, updated["batch_stats"])

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    for i in range(3):
        batch = {name: TORCH[f"pass{i}/{name}"] for name in ("x", "y", "weights", "dx")}
        batch = {name: value.transpose(order) for name, value in batch.items()}
        gradients, (y, stats) = step(params, batch["x"], batch["weights"], stats)
        np.testing.assert_allclose(y, batch["y"], **close)
        np.testing.assert_allclose(stats["mean"], TORCH[f"pass{i}/running_mean"], **close)
        np.testing.assert_allclose(stats["var"], TORCH[f"pass{i}/running_var"], **close)
        np.testing.assert_allclose(gradients[1], batch["dx"], rtol=1e-4, atol=1e-4)
        for name, theirs in (("scale", "1.weight"), ("bias", "1.bias"), ("slope", "2.weight")):
            want = TORCH[f"pass{i}/d{theirs}"].reshape(gradients[0][name].shape)
            np.testing.assert_allclose(gradients[0][name], want, rtol=1e-4, atol=1e-4)
        want = TORCH[f"pass{i}/d0.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_allclose(gradients[0]["kernel"], want, rtol=1e-4, atol=1e-4)

    x = jnp.asarray(TORCH["eval/x"].transpose(order))
    y = layer.apply({"params": params, "batch_stats": stats}, x, train=False)
    np.testing.assert_allclose(y, TORCH["eval/y"].transpose(order), **close)


@pytest.mark.parametrize("head", ["linear", "conv", "mean"])
@pytest.mark.parametrize("train", [True, False])
def test_either_layout_gives_the_same_network(head, train):
    thin = Backbone(((4, 5, 2), "M", (6, 3, 1), (5, 3, 0), "M"), head)
    images = jax.random.uniform(jax.random.key(0), (3, 13, 15, 2))
    variables = jax.jit(ConvStack(thin, layout="NHWC").init)(jax.random.key(1), images)
    outputs = []
    for layout in ("NHWC", "HWCN"):
        apply = partial(ConvStack(thin, layout=layout).apply, train=train, mutable=["batch_stats"])
        outputs.append(jax.jit(apply)(variables, images)[0])
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_inference_leaves_no_trace_and_initialisation_none_either():
    init = jax.jit(create("v0").init)
    variables = init(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
    for name, stats in variables["batch_stats"].items():
        np.testing.assert_array_equal(stats["mean"], 0, err_msg=name)
        np.testing.assert_array_equal(stats["var"], 1, err_msg=name)
    chex.assert_trees_all_equal(variables, init(jax.random.key(0), jnp.ones((2, 28, 28, 1))))
