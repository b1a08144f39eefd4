"""Networks and their dropout with the batch split over two devices, by jit alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets import ScoresHead, Split, create_train_state, sgd, train_step
from jaxnets.models.conv_stack import Backbone, ConvStack
from jaxnets.models.layers import Linear
from jaxnets.models.mobilenet_v2 import MobileNetV2
from jaxnets.models.mynn import Mynn
from jaxnets.models.normalized import Normalized
from jaxnets.models.regnet import RegNetX
from jaxnets.models.resnet import ResNet
from jaxnets.models.vgg import VGG

THIN = {
    "conv_stack": ConvStack(Backbone(((4, 5, 2), "M", (3, 3, 1)))),
    "conv_head": ConvStack(Backbone(((4, 5, 2), "M"), "conv")),
    "mean_head": ConvStack(Backbone(((4, 3, 1), "M"), "mean")),
    "mynn": Mynn(),
    "resnet": ResNet((1, 0, 0, 0), True),
    "regnet": Normalized(RegNetX((1,), (32,), 16)),
    "mobilenet_v2": MobileNetV2(stages=((1, 16, 1, 1),), dropout=0.0),
    "vgg": VGG((8, "M"), hidden=8, dropout=0.0),
}
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


QUICK = ("conv_stack", "mynn", "resnet")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in THIN])
def test_networks_by_jit_over_explicit_axes(name):
    """Scores, gradients and batch statistics are those of one device, with nothing said but where the images lie."""
    module, images = THIN[name], np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    variables = jit(module.init)(jax.random.key(0), images)

    def run(variables, images):
        def loss(params):
            given = {**variables, "params": params}
            scores, updated = module.apply(given, images, train=True, mutable=["batch_stats"])
            return (scores**2).sum(), (scores, updated)

        inferred = module.apply(variables, images)
        return inferred, jax.grad(loss, has_aux=True)(variables["params"])

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    placed = jax.device_put(variables, NamedSharding(mesh, P())), jax.device_put(images, NamedSharding(mesh, P("data")))
    got, wanted = jit(run)(*placed), jit(run)(variables, images)
    assert got[0].sharding.spec[0] == got[1][1][0].sharding.spec[0] == "data"
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()))


def dropped(key, features):
    return nn.Dropout(0.5).apply({}, features, deterministic=False, rngs={"dropout": key})


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_dropout_by_jit_drops_as_one_device_does(kind):
    features, key = np.ones((4, 64), np.float32), jax.random.key(0)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    placed = jax.device_put(features, NamedSharding(mesh, P("data")))
    of_both = np.asarray(jax.jit(dropped)(key, placed))
    np.testing.assert_array_equal(of_both, jax.jit(dropped)(key, features))
    assert (of_both[:2] != of_both[2:]).mean() > 0.25  # half of independent masks


class Masked(nn.Module):
    """Keeps in its statistics the mask, of 0 and 1, that its dropout made for one row of features."""

    @nn.compact
    def __call__(self, images, *, train=False, axis_name=None):
        mask = self.variable("batch_stats", "mask", jnp.zeros, (64,))
        features = nn.Dropout(0.5)(jnp.ones(64), deterministic=not train)
        if train and not self.is_initializing():
            mask.value = features / 2
        return Linear(2)(images.reshape(images.shape[0], -1))


def test_devices_drop_independently_under_shard_map():
    """The mean of two masks has a half where they differ, which are half of the features."""
    batch = Split(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32))
    state = create_train_state(jax.random.key(0), Masked(), ScoresHead(), batch.images, sgd(0.1), sgd(0.1))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(partial(train_step, axis_name="data"), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    alone, shared = (jax.jit(step)(state, batch)[0].batch_stats["mask"] for step in (train_step, mapped))
    assert set(np.unique(alone)) == {0, 1}
    np.testing.assert_array_equal(np.unique(shared), [0, 0.5, 1])
    assert (shared == 0.5).mean() == pytest.approx(0.5, abs=4 * 0.5 / 8)  # four standard errors of 64 features
