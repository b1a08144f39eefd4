"""The gender study's networks: sizes, initialisation, dtypes, dropout, training. test_torchvision has their numbers."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ScoresHead, Split, create_train_state, sgd, train_step
from jaxnets.models import create
from jaxnets.models.conv_stack import Backbone, ConvStack
from jaxnets.models.layers import Conv, normal_fan_out
from jaxnets.models.mobilenet_v2 import MobileNetV2
from jaxnets.models.mynn import Mynn
from jaxnets.models.regnet import RegNetX
from jaxnets.models.resnet import ResNet
from jaxnets.models.vgg import VGG, _averaged

PARAMETERS = {
    "mynn": 3_290_786,
    "mynn_relu": 3_290_786,
    "mynn_deep": 1_173_738,
    "resnet18": 11_177_538,
    "resnet50": 23_512_130,
    "regnet_x_400mf": 5_095_778,
    "mobilenet_v2": 2_226_434,
    "vgg16": 134_268_738,
}
# The same classes, with so few layers that they compile in a second.
THIN = {
    "mynn": Mynn(),
    "mynn_relu": Mynn(relu=True),
    "mynn_deep": ConvStack(Backbone(((8, 3, 1), "M", (16, 3, 1)), "mean")),
    "resnet": ResNet((1, 1, 0, 0), False),
    "resnet_bottleneck": ResNet((1, 1, 0, 0), True),
    "regnet": RegNetX((1, 1), (32, 48), 16),
    "mobilenet_v2": MobileNetV2(stages=((1, 16, 1, 1), (6, 24, 2, 2)), dropout=0.0),
    "vgg": VGG((8, "M", 16, "M"), hidden=32, dropout=0.0),
}
# Those with layers of their own; test_torchvision has the gradients of all.
DIFFERENT = [name for name in THIN if name not in ("mynn_relu", "resnet")]
HEAD = ScoresHead()


# Compiling takes the time here, running hardly any.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def inputs(count, size=16):
    return jax.random.uniform(jax.random.key(0), (count, size, size, 3))


@cache
def initialised(module, size=16):
    return jit(module.init)(jax.random.key(1), inputs(1, size))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_and_shapes(name):
    for num_outputs, count, size in ((2, 1, 224), (7, 3, 64)):
        outputs, variables = jax.eval_shape(
            lambda key, count=count, size=size, num_outputs=num_outputs: create(name, num_outputs).init_with_output(
                key, jnp.zeros((count, size, size, 3))
            ),
            jax.random.key(0),
        )
        chex.assert_shape(outputs, (count, num_outputs))
        chex.assert_type([outputs, *jax.tree.leaves(variables)], jnp.float32)
        if (num_outputs, size) == (2, 224):
            assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


def spread(values, expected_deviation):
    """How many standard errors the deviation of normal values is from the expected one."""
    return abs(float(values.std()) / expected_deviation - 1) * np.sqrt(2 * values.size)


@pytest.mark.parametrize("groups", [1, 8])
def test_torchvisions_convolutions_start_normal_by_their_fan_out(groups):
    """kaiming_normal_(mode="fan_out"): deviation √(2 / (k²·out)), whatever the groups, and no bound."""
    conv = Conv(64, 3, 1, groups=groups, kernel_init=normal_fan_out)
    params = jax.jit(conv.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 64)))["params"]
    deviation = np.sqrt(2 / (9 * 64))
    assert params["kernel"].shape == (3, 3, 64 // groups, 64)
    assert spread(params["kernel"], deviation) < 4
    assert 3 * deviation < float(jnp.abs(params["kernel"]).max()) < 6 * deviation
    np.testing.assert_array_equal(params["bias"], 0)


def test_pytorchs_convolutions_start_uniform_by_their_fan_in():
    """U(±1/√fan_in) for kernels and biases, a group's inputs alone being counted."""
    params = jax.jit(Conv(4000, 3, 1, groups=4).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]
    for values in params.values():
        assert 0.98 / 6 < float(jnp.abs(values).max()) <= 1 / 6 + 1e-6
        assert float(values.std()) == pytest.approx(1 / (6 * np.sqrt(3)), rel=0.03)


LINEAR = {"mynn": "uniform", "resnet": "uniform", "regnet": "normal", "mobilenet_v2": "normal", "vgg": "normal"}


@pytest.mark.parametrize("network", LINEAR)
def test_each_network_starts_as_torchvisions_does(network):
    """Convolutions normal by fan-out but for Mynn's; Linear by PyTorch's default, uniform, or N(0, 0.01²)."""
    variables = initialised(THIN[network])
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables["params"])[0]:
        module, name = path[-2].key, path[-1].key
        is_uniform = network == "mynn" or (module == "fc" and LINEAR[network] == "uniform")
        if name == "scale":
            np.testing.assert_array_equal(leaf, 1)
        elif name == "bias" and not is_uniform:
            np.testing.assert_array_equal(leaf, 0)
        elif name == "bias":
            inputs = np.prod(variables["params"][module]["kernel"].shape[:-1])
            assert 0 < float(jnp.abs(leaf).max()) <= inputs**-0.5
        else:
            by_fan_out = np.sqrt(2 / (leaf.shape[0] ** 2 * leaf.shape[-1]))
            normal = by_fan_out if leaf.ndim == 4 else 0.01
            deviation = np.prod(leaf.shape[:-1]) ** -0.5 / np.sqrt(3) if is_uniform else normal
            assert spread(leaf, deviation) < 4.5
            # Of a hundred normal numbers one or more lies beyond √3 deviations, of uniform ones none.
            assert (float(jnp.abs(leaf).max()) <= 1.733 * deviation) == is_uniform


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("mynn", "mobilenet_v2") else pytest.mark.slow) for name in DIFFERENT],
)
def test_bfloat16_computes_in_it_and_keeps_all_else_in_float32(name):
    """Scores within 5 % of float32's, which is a dozen of bfloat16's steps of 2⁻⁸; the convolutions are in bfloat16."""
    variables, images = initialised(THIN[name]), inputs(8)

    def run(dtype, variables):
        module = THIN[name].clone(dtype=dtype)
        return module.apply(variables, images), module.apply(variables, images, train=True, mutable=["batch_stats"])

    whole = jit(run, static_argnums=0)(None, variables)
    half = jit(run, static_argnums=0)(jnp.bfloat16, variables)
    chex.assert_type(jax.tree.leaves(half), jnp.float32)
    for scores, half_scores in ((whole[0], half[0]), (whole[1][0], half[1][0])):
        error = float(jnp.abs(half_scores - scores).max())
        assert 0 < error < 0.05 * float(jnp.abs(scores).max())
    lines = jax.jit(run, static_argnums=0).lower(jnp.bfloat16, variables).as_text().splitlines()
    convolutions = [line for line in lines if "stablehlo.convolution" in line]
    assert convolutions and all("bf16" in line and "f32" not in line for line in convolutions)


def test_dtypes_that_are_refused():
    for dtype in ("int8", "float16", "float64"):
        with pytest.raises(ValueError, match=f"float32 or bfloat16, not {dtype}"):
            create("resnet18", dtype=dtype)
    assert create("resnet18", dtype="bfloat16") == create("resnet18", dtype=jnp.bfloat16) != create("resnet18")


def test_mynn_takes_multiples_of_8_and_the_size_it_began_with():
    for shape in ((1, 220, 224, 3), (1, 224, 225, 3), (1, 0, 224, 3)):
        with pytest.raises(ValueError, match=f"multiples of 8, not {shape[1]}×{shape[2]}"):
            create("mynn").init(jax.random.key(0), jnp.zeros(shape))
    variables = initialised(Mynn(), 16)
    assert variables["params"]["model1_7"]["kernel"].shape == (64 * 2 * 2, 64)
    with pytest.raises(ValueError, match=r"initialised with images of 256 pixels, not 24×16"):
        Mynn().apply(variables, jnp.zeros((1, 24, 16, 3)))


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_mynn_in_either_layout_is_the_same_network(relu):
    """Sixteen images, from which on the CPU's own convolutions are used for the one layout."""
    images, variables = inputs(16), initialised(Mynn())

    def run(layout):
        module = Mynn(relu=relu, layout=layout)
        return jit(jax.value_and_grad(lambda params: (module.apply({"params": params}, images) ** 2).sum()))(
            variables["params"]
        )

    chex.assert_trees_all_close(run("HWCN"), run("NHWC"), rtol=2e-3, atol=1e-5)


def test_vgg_averages_to_7x7_as_pytorch_does():
    """By hand: 8 rows to 7 are means of neighbours; 2 to 7 repeat, the middle one being the mean of both."""
    x = jnp.arange(16.0).reshape(1, 8, 2, 1)
    y = _averaged(x, (7, 7))
    np.testing.assert_allclose(y[0, :, 0, 0], np.arange(7) * 2 + 1, rtol=1e-6)
    np.testing.assert_allclose(y[0, 0, :, 0], [1, 1, 1, 1.5, 2, 2, 2], rtol=1e-6)
    assert _averaged(jnp.ones((1, 7, 7, 3)), (7, 7)).shape == (1, 7, 7, 3)


def test_vgg_refuses_images_that_its_pools_use_up():
    with pytest.raises(ValueError, match="at least 32×32, not 64×31"):
        create("vgg16").init(jax.random.key(0), jnp.zeros((1, 64, 31, 3)))


@pytest.mark.parametrize(("name", "rate"), [("vgg16", 0.5), ("mobilenet_v2", 0.2)])
def test_dropout_is_by_its_rng_and_in_training_alone(name, rate):
    assert create(name).dropout == rate
    module, images = THIN[name.removesuffix("16")].clone(dropout=rate), inputs(4)
    variables = initialised(module)

    @partial(jit, static_argnames="train")
    def run(seed, train=True):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(variables, images, train=train, mutable=["batch_stats"], rngs=rngs)[0]

    np.testing.assert_array_equal(run(0), run(0))
    assert float(jnp.abs(run(0) - run(1)).max()) > 0
    np.testing.assert_array_equal(run(0, train=False), run(1, train=False))


def test_dropouts_share_of_zeros():
    """With kernels of ones a score counts the features kept, each divided by 1 − p."""
    module = MobileNetV2(stages=((1, 16, 1, 1),))
    variables = initialised(module)
    images = inputs(64)

    def of_dropout(module, key):
        options = {"mutable": ["batch_stats", "intermediates"], "capture_intermediates": True}
        _, seen = module.apply(variables, images, train=True, rngs={"dropout": key}, **options)
        return seen["intermediates"]["Dropout_0"]["__call__"][0]

    dropped, whole = jax.jit(lambda key: (of_dropout(module, key), of_dropout(module.clone(dropout=0.0), key)))(
        jax.random.key(0)
    )
    is_kept = dropped != 0
    np.testing.assert_allclose(jnp.where(is_kept, dropped, 0), jnp.where(is_kept, whole / 0.8, 0), rtol=1e-5)
    share = float(is_kept[whole != 0].mean())
    assert share == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / int((whole != 0).sum())))


def made_up(count, size=16):
    """Two classes, dark and light."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count).astype(np.int32)
    images = rng.integers(0, 128, (count, size, size, 3)) + 100 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels)


def new_state(module, batch):
    optimizers = {"net_optimizer": sgd(0.05, 0.9), "head_optimizer": sgd(0.05)}
    return create_train_state(jax.random.key(0), module, HEAD, batch.images, **optimizers)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("mynn", "resnet_bottleneck") else pytest.mark.slow) for name in DIFFERENT],
)
def test_the_loss_falls_and_devices_share_the_work(name):
    """Two devices with half of a batch each take the step that one takes with all of it; more steps lower its loss."""
    batch = made_up(8)
    state = new_state(THIN[name], batch)
    step = jit(train_step)
    after, metrics = step(state, batch)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        lambda state, batch: train_step(state, batch, "data"),
        mesh=mesh,
        in_specs=(jax.P(), jax.P("data")),
        out_specs=jax.P(),
    )
    shared, shared_metrics = jit(mapped)(state, batch)
    for got, want in ((shared.params, after.params), (shared.batch_stats, after.batch_stats)):
        chex.assert_trees_all_close(jax.device_get(got), jax.device_get(want), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(shared_metrics["loss"], metrics["loss"], rtol=1e-5)
    for _ in range(25):
        after, last = step(after, batch)
    # Deep networks without BatchNorm begin with the frequencies of the classes, and stay there for long.
    assert float(last["loss"]) < (0.97 if name == "vgg" else 0.6) * float(metrics["loss"])


def test_a_step_in_bfloat16_with_dropout_over_devices():
    """Everything at once, on the network that has all of it: weights move, and stay float32."""
    batch = made_up(8)
    state = new_state(THIN["mobilenet_v2"].clone(dropout=0.2, dtype=jnp.bfloat16), batch)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        lambda state, batch: train_step(state, batch, "data"),
        mesh=mesh,
        in_specs=(jax.P(), jax.P("data")),
        out_specs=jax.P(),
    )
    after, metrics = jit(mapped)(state, batch)
    assert np.isfinite(metrics["loss"])
    chex.assert_type(jax.tree.leaves((after.params, after.batch_stats)), jnp.float32)
    for new, old in zip(jax.tree.leaves(after.params["net"]), jax.tree.leaves(state.params["net"]), strict=True):
        assert np.isfinite(new).all() and np.any(jax.device_get(new) != jax.device_get(old))


def test_images_smaller_than_the_filters_are_no_plain_loops():
    """XLA:CPU has nothing better for them than loops, which are far slower than products: ResNet's last at 64×64."""

    def convolutions(size):
        x, layer = jnp.ones((4, size, size, 8)), Conv(8, 3, 1)
        variables = layer.init(jax.random.key(0), x)
        return str(jax.make_jaxpr(layer.apply)(variables, x)).count("conv_general_dilated[")

    assert (convolutions(2), convolutions(3)) == (0, 1)
