"""What the tests of both formats share: random weights, pictures, and the network as this machine runs it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from jaxnets import export
from jaxnets.models.conv_stack import Backbone, ConvStack

CLOSE = 1e-5  # of the largest value
QUICK = {"xla_backend_optimization_level": 0}  # so that tests compile in less time


def randomised(model, shape):
    """Variables as training might leave them: no number is the one of initialisation, and no layer mutes the next."""
    abstract = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))
    rng = np.random.default_rng(1)

    def leaf(path, like):
        if path[-1].key == "kernel":
            return rng.standard_normal(like.shape, np.float32) * np.float32(np.sqrt(2 / np.prod(like.shape[:-1])))
        low, high = {"scale": (0.5, 1.5), "var": (0.5, 1.5), "slope": (0.1, 0.4), "slopes": (0.1, 0.4)}.get(
            path[-1].key, (-0.3, 0.3)
        )
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
    return from_onnx(export.export_onnx(program))


def from_onnx(model):
    """A function of images, of an ONNX model's content or file."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [output] = session.get_outputs()
    return lambda images: session.run([output.name], {"images": images})[0]


def assert_close(got, want):
    assert got.dtype == np.float32 and got.shape == want.shape and np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE * np.abs(want).max())


@pytest.fixture(scope="session")
def exporting():
    """The functions above, and a thin network for images of one shape with its variables."""
    model, shape = ConvStack(Backbone(((4, 5, 2), "M", (6, 3, 1), (5, 3, 0), "M")), 2), (13, 15, 2)
    return SimpleNamespace(
        randomised=randomised,
        pixels=pixels,
        natively=natively,
        by={"stablehlo": by_stablehlo, "onnx": by_onnx},
        from_onnx=from_onnx,
        assert_close=assert_close,
        thin=model,
        shape=shape,
        variables=randomised(model, shape),
        images=pixels(shape, 7),
    )
