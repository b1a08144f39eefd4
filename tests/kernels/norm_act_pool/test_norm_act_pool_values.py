"""norm_act_pool of NaN as in PyTorch, by hand, and its checks."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.norm_act_pool import norm_act_pool, norm_act_pool_inference
from tests.fixtures import make_torch_pools as script

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = np.load(FIXTURES / "torch_pools.npz")


@pytest.mark.parametrize("name", script.LAYERS)
def test_inference_passes_nan_on_and_differentiates_as_pytorch(name):
    """The last NaN of a window gets its gradient, and the first of equal maxima."""
    if importlib.util.find_spec("torch"):
        for what, live in zip(("y", "dx"), script.normalised(name), strict=True):
            np.testing.assert_array_equal(RECORDED[f"normalised/{name}/{what}"], live)
    y_torch, dx_torch = (RECORDED[f"normalised/{name}/{what}"] for what in ("y", "dx"))
    slope = script.LAYERS[name]

    @jax.jit
    def run(x, dy):
        scale, bias, mean, var = script.parameters()
        slope_array = None if slope is None else jnp.float32(slope)
        infer = functools.partial(norm_act_pool_inference, pool=True)
        y, vjp = jax.vjp(lambda x: infer(x, scale, bias, slope_array, mean, var), x)
        return y, *vjp(dy)

    y, dx = run(script.images(infinities=False), script.gradients(y_torch))
    np.testing.assert_allclose(y, y_torch, rtol=0, atol=1e-6)
    np.testing.assert_allclose(dx, dx_torch, rtol=0, atol=1e-6)


def test_by_hand():
    """x = 1, 2, 3, 6 has mean 3 and variance 3.5; the window's maximum normalised is 3/√(3.5 + 1e-5)."""
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)
    run = jax.jit(functools.partial(norm_act_pool, pool=True, layout="HWCN"))
    y, mean, var = run(x, jnp.full(1, 2.0), jnp.ones(1), jnp.float32(0.5))
    deviation = np.sqrt(3.50001)
    np.testing.assert_allclose([mean[0], var[0], y[0, 0, 0, 0]], [3.0, 3.5, 1 + 6 / deviation], rtol=5e-7)
    # The smallest, 1 − 4/√3.5 < 0, becomes the largest with a slope of −4.
    y, _, _ = run(x, jnp.full(1, 2.0), jnp.ones(1), jnp.float32(-4))
    assert 4 * (4 / deviation - 1) > 1 + 6 / deviation
    np.testing.assert_allclose(y[0, 0, 0, 0], 4 * (4 / deviation - 1), rtol=5e-7)


def test_checks(unenforced):
    x, one = jnp.ones((4, 4, 3, 2)), jnp.ones(3)
    for arguments, complaint in [
        ({"layout": "NCHW"}, "layouts"),
        ({"implementation": "triton"}, "no implementation 'triton'"),
        ({"scale": jnp.ones(2)}, r"takes a scale of \(3,\), not \(2,\)"),
        ({"bias": jnp.ones(2)}, "takes a bias"),
        ({"slope": jnp.ones(3)}, "scalar"),
        ({"x": jnp.ones((4, 4, 3))}, "images"),
        ({"x": jnp.ones((4, 4, 3, 2), jnp.uint8)}, "in floating point, not uint8"),
        ({"x": jnp.ones((1, 4, 3, 2)), "pool": True}, "too small"),
    ]:
        call = {"x": x, "scale": one, "bias": one, "slope": None, "pool": False, "layout": "HWCN", **arguments}
        with pytest.raises(ValueError, match=complaint):
            norm_act_pool(**call)
    with pytest.raises(ValueError, match=r"takes a var of \(3,\), not \(1,\)"):
        norm_act_pool_inference(x, one, one, 0.5, one, jnp.ones(1), pool=False, layout="HWCN")
