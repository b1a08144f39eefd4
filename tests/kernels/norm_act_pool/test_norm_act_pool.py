"""One contract for every implementation of norm_act_pool; PyTorch and hand-computed numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels.norm_act_pool import norm_act_pool, norm_act_pool_inference

# height, width, channels, batch
SHAPES = {
    "even": (4, 6, 3, 4),
    "odd": (5, 7, 2, 3),
    "one_channel": (4, 4, 1, 3),
    "one_image": (3, 5, 2, 1),
    "smallest": (2, 2, 1, 1),
}
SLOPES = [None, 0.25, -0.5, 2.0]


def make(shape, slope=0.25, *, layout="HWCN", dtype=np.float32, pool=False, seed=0):
    """(x, scale, bias, slope) and dy. One scale is negative and one is 0, which pooling and dscale must survive."""
    rng = np.random.default_rng(seed)
    height, width, channels, batch = shape
    x = rng.standard_normal((batch, height, width, channels)) * 2 + 1
    scale = np.array([1.2, -0.7, 0.0])[:channels]
    bias = np.array([0.3, -0.2, 0.1])[:channels]
    dy = rng.standard_normal((batch, height // 2, width // 2, channels) if pool else x.shape)
    x, scale, bias, dy = (a.astype(dtype) for a in (to(layout, x), scale, bias, to(layout, dy)))
    return (x, scale, bias, None if slope is None else np.asarray(slope, dtype)), dy


def to(layout, images):
    return np.einsum(f"nhwc->{layout.lower()}", images)


def by_definition(arguments, dy, *, pool, epsilon=1e-5):
    """(y, mean, var), (dx, dscale, dbias, dslope) in NumPy float64, layout HWCN."""
    x, scale, bias, slope = (None if a is None else np.asarray(a, np.float64) for a in arguments)
    dy = np.asarray(dy, np.float64)
    scale, bias = scale[:, None], bias[:, None]
    mean, var = x.mean((0, 1, 3), keepdims=True), x.var((0, 1, 3), keepdims=True)
    normal = (x - mean) / np.sqrt(var + epsilon)
    z = scale * normal + bias
    y = z if slope is None else np.where(z > 0, z, slope * z)
    if pool:
        d_full = np.zeros_like(y)
        pooled = np.zeros_like(dy)
        for i, j, c, n in np.ndindex(*dy.shape):
            window = y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c, n]
            first = np.argmax(window)  # NumPy's too is the first in row-major order
            pooled[i, j, c, n] = window.flat[first]
            d_full[2 * i + first // 2, 2 * j + first % 2, c, n] = dy[i, j, c, n]
        y, dy = pooled, d_full
    dslope = None if slope is None else np.sum(dy * np.minimum(z, 0))
    dz = dy if slope is None else np.where(z > 0, dy, slope * dy)

    def over_batch(v):
        return v.mean((0, 1, 3), keepdims=True)

    dx = scale / np.sqrt(var + epsilon) * (dz - over_batch(dz) - normal * over_batch(dz * normal))
    gradients = dx, (dz * normal).sum((0, 1, 3)), dz.sum((0, 1, 3)), dslope
    return (y, mean.ravel(), var.ravel()), gradients


def values_and_gradients(arguments, dy, **options):
    (y, *statistics), vjp = jax.vjp(functools.partial(norm_act_pool, **options), *arguments)
    return (y, *statistics), vjp((dy, *map(jnp.ones_like, statistics)))


def assert_close(actual, expected, tolerance):
    """Every error at most `tolerance` of the largest value, or of 1."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=tolerance * max(1, np.max(np.abs(b))))


@pytest.mark.parametrize("implementation", ["reference", "fused"])
class TestContract:
    def run(self, arguments, dy, **options):
        return jax.jit(functools.partial(values_and_gradients, **options))(arguments, dy)

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    @pytest.mark.parametrize("slope", SLOPES)
    def test_slopes(self, implementation, pool, slope):
        arguments, dy = make(SHAPES["even"], slope, pool=pool)
        actual = self.run(arguments, dy, pool=pool, layout="HWCN", implementation=implementation)
        assert_close(actual, by_definition(arguments, dy, pool=pool), 5e-6)

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_shapes(self, implementation, pool, shape):
        arguments, dy = make(SHAPES[shape], pool=pool)
        actual = self.run(arguments, dy, pool=pool, layout="HWCN", implementation=implementation)
        assert_close(actual, by_definition(arguments, dy, pool=pool), 5e-6)

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    def test_layouts_agree(self, implementation, pool):
        options = {"pool": pool, "implementation": implementation}
        (y, *statistics), (dx, *gradients) = self.run(*make(SHAPES["odd"], pool=pool), **options, layout="HWCN")
        nhwc = make(SHAPES["odd"], pool=pool, layout="NHWC")
        (y_n, *statistics_n), (dx_n, *gradients_n) = self.run(*nhwc, **options, layout="NHWC")
        assert_close((y_n, dx_n), (y.transpose(3, 0, 1, 2), dx.transpose(3, 0, 1, 2)), 1e-6)
        assert_close((statistics_n, gradients_n), (statistics, gradients), 1e-6)

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    def test_float64(self, implementation, pool):
        arguments, dy = make(SHAPES["odd"], pool=pool, dtype=np.float64)
        with jax.enable_x64(True):
            actual = self.run(arguments, dy, pool=pool, layout="HWCN", implementation=implementation)
            assert_close(actual, by_definition(arguments, dy, pool=pool), 1e-14)

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    def test_bfloat16_images_are_computed_in_float32(self, implementation, pool):
        (x, *parameters), dy = make(SHAPES["even"], pool=pool)
        arguments, dy = (jnp.asarray(x, jnp.bfloat16), *parameters), jnp.asarray(dy, jnp.bfloat16)
        actual = self.run(arguments, dy, pool=pool, layout="HWCN", implementation=implementation)
        (y, mean, var), (dx, dscale, dbias, dslope) = actual
        assert {y.dtype, dx.dtype} == {jnp.dtype(jnp.bfloat16)}
        (y_e, *statistics_e), (dx_e, *gradients_e) = by_definition(arguments, dy, pool=pool)
        assert_close((y, dx), (y_e, dx_e), 2**-8)
        assert_close(([mean, var], [dscale, dbias, dslope]), (statistics_e, gradients_e), 5e-6)

    def test_variance_when_the_mean_is_far_larger(self, implementation):
        """x itself, rounded to float32, is all that is lost: a relative 2⁻²³·5000 in a deviation of 1."""
        rng = np.random.default_rng(0)
        x = (5000 + rng.standard_normal((8, 8, 3, 64))).astype(np.float32)
        ones = np.ones(3, np.float32)
        y, mean, var = norm_act_pool(x, ones, 0 * ones, None, pool=False, layout="HWCN", implementation=implementation)
        exact = np.asarray(x, np.float64)
        np.testing.assert_allclose(mean, exact.mean((0, 1, 3)), rtol=1e-6)
        np.testing.assert_allclose(var, exact.var((0, 1, 3)), rtol=1e-5)
        normal = (exact - exact.mean((0, 1, 3))[:, None]) / exact.std((0, 1, 3))[:, None]
        np.testing.assert_allclose(y, normal, rtol=0, atol=2e-3)

    def test_ties_go_to_the_first(self, implementation):
        """Equal maxima in every place of a window: the first in row-major order takes the whole gradient."""
        windows = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1]]
        x = np.array(windows, np.float32).T.reshape(2, 2, 1, 6)
        winners = [np.argmax(window) for window in windows]

        def y_sum(bias_at):  # moves one pixel of one window at a time through the normalised values
            y, _, _ = norm_act_pool(
                x + bias_at, jnp.ones(1), jnp.ones(1), None, pool=True, layout="HWCN", implementation=implementation
            )
            return y[0, 0, 0]

        jacobian = jax.jacrev(y_sum)(jnp.zeros_like(x)).reshape(6, 4, 6)  # window, place, image
        own = jacobian[np.arange(6), :, np.arange(6)]
        np.testing.assert_array_equal(np.argmax(own, axis=1), winners)
        assert np.all(np.sort(own, axis=1)[:, 2] < 0.3)  # and no other place has a share

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    def test_vmap(self, implementation, pool):
        runs = [make(SHAPES["odd"], pool=pool, seed=seed) for seed in range(3)]
        (x, *parameters), dy = jax.tree.map(lambda *a: np.stack(a), *runs)
        run = functools.partial(self.run, pool=pool, layout="HWCN", implementation=implementation)
        expected = jax.tree.map(lambda *a: np.stack(a), *(run(*arguments) for arguments in runs))
        assert_close(jax.vmap(run)((x, *parameters), dy), expected, 5e-6)

    @pytest.mark.parametrize("how", ["vmap", "pmap", "shard_map", "shard_map_unchecked"])
    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    def test_statistics_over_a_mapped_axis(self, implementation, pool, how):
        """Two devices with half the batch each give what one gives with all of it."""
        arguments, dy = make(SHAPES["even"], pool=pool)
        options = {"pool": pool, "layout": "HWCN", "implementation": implementation, "axis_name": "data"}
        run = functools.partial(values_and_gradients, **options)

        def summed(arguments, dy):
            values, (dx, *gradients) = run(arguments, dy)
            return values, (dx, *jax.lax.psum(gradients, "data"))

        if how.startswith("shard_map"):
            mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
            images, shared = P(None, None, None, "data"), P()
            check = how == "shard_map"  # checked, JAX itself sums the gradients of shared parameters
            mapped = jax.shard_map(
                run if check else summed,
                mesh=mesh,
                in_specs=((images, shared, shared, shared), images),
                out_specs=((images, shared, shared), (images, shared, shared, shared)),
                check_vma=check,
            )
            actual = jax.jit(mapped)(arguments, dy)
        else:
            halve = functools.partial(np.split, indices_or_sections=2, axis=3)
            (x, *parameters), halves = arguments, np.stack(halve(dy))
            mapping = functools.partial(jax.pmap, devices=jax.devices()[:2]) if how == "pmap" else jax.vmap
            mapped = mapping(summed, axis_name="data", in_axes=((0, None, None, None), 0))
            (y, *statistics), (dx, *gradients) = jax.device_get(mapped((np.stack(halve(x)), *parameters), halves))
            for of_both in (*statistics, *gradients):
                np.testing.assert_array_equal(of_both[0], of_both[1])
            whole = functools.partial(np.concatenate, axis=3)
            actual = (whole(y), *(a[0] for a in statistics)), (whole(dx), *(a[0] for a in gradients))
        assert_close(actual, by_definition(arguments, dy, pool=pool), 5e-6)

    @pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
    @pytest.mark.parametrize("slope", [None, 0.25, -0.5])
    def test_equals_pytorch(self, implementation, pool, slope):
        torch = pytest.importorskip("torch")
        (x, scale, bias, slope_array), dy = make(SHAPES["odd"], slope, pool=pool)
        x = np.round(x)  # whole numbers, so that windows have ties

        norm = torch.nn.BatchNorm2d(2)
        layers = [norm]
        norm.weight.data, norm.bias.data = torch.tensor(scale), torch.tensor(bias)
        if slope is not None:
            layers.append(torch.nn.PReLU(init=slope))
        if pool:
            layers.append(torch.nn.MaxPool2d(2))
        x_torch = torch.tensor(x.transpose(3, 2, 0, 1).copy(), requires_grad=True)
        y_torch = torch.nn.Sequential(*layers)(x_torch)
        y_torch.backward(torch.tensor(dy.transpose(3, 2, 0, 1).copy()))

        (y, mean, var), (dx, dscale, dbias, dslope) = self.run(
            (x, scale, bias, slope_array), dy, pool=pool, layout="HWCN", implementation=implementation
        )
        count = x.size // 2
        unbiased = np.asarray(var) * count / (count - 1)
        expected = [y_torch.detach(), x_torch.grad]
        assert_close([y, dx], [a.numpy().transpose(2, 3, 1, 0) for a in expected], 5e-6)
        assert_close([dscale, dbias], [norm.weight.grad.numpy(), norm.bias.grad.numpy()], 5e-6)
        assert_close(0.1 * mean, norm.running_mean.numpy(), 5e-6)  # PyTorch's momentum, from a mean of 0 and var of 1
        assert_close(0.9 + 0.1 * unbiased, norm.running_var.numpy(), 5e-6)
        if slope is not None:
            assert_close(dslope.reshape(1), layers[1].weight.grad.numpy(), 5e-6)


@pytest.mark.parametrize("layout", ["HWCN", "NHWC"])
@pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
@pytest.mark.parametrize("slope", [None, 0.25, -0.5])
def test_inference_with_the_statistics_of_the_batch_is_training(layout, pool, slope):
    arguments, dy = make(SHAPES["odd"], slope, layout=layout, pool=pool)
    y, mean, var = norm_act_pool(*arguments, pool=pool, layout=layout, implementation="reference")
    infer = functools.partial(norm_act_pool_inference, pool=pool, layout=layout)
    np.testing.assert_allclose(infer(*arguments, mean, var), y, rtol=0, atol=1e-6)
    # Differentiated, for instance to draw what a network sees; a batch of one is as good as any.
    dx = jax.grad(lambda x: jnp.sum(dy * infer(x, *arguments[1:], mean, var)))(arguments[0])
    assert np.count_nonzero(dx) <= dy.size


@pytest.mark.parametrize("place", range(4))
def test_nan_is_not_hidden_by_the_pool(place):
    """Of a network that has diverged; at inference, where NaN is not in the statistics already."""
    x = jnp.ones(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    one = jnp.ones(1)
    assert jnp.isnan(norm_act_pool_inference(x, one, one, jnp.float32(0.5), one, one, pool=True)).all()


def test_by_hand():
    """x = 1, 2, 3, 6 has mean 3 and variance 3.5; the window's maximum normalised is 3/√3.5."""
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)
    one = jnp.ones(1)
    y, mean, var = norm_act_pool(x, 2 * one, one, jnp.float32(0.5), pool=True, layout="HWCN", epsilon=0.0)
    np.testing.assert_allclose([mean[0], var[0], y[0, 0, 0, 0]], [3.0, 3.5, 1 + 6 / np.sqrt(3.5)], rtol=1e-6)
    # With slope −1 the smallest, −4/√3.5 + 1 < 0, is not the largest in magnitude; with −3 it is.
    y, _, _ = norm_act_pool(x, 2 * one, one, jnp.float32(-3), pool=True, layout="HWCN", epsilon=0.0)
    np.testing.assert_allclose(y[0, 0, 0, 0], max(1 + 6 / np.sqrt(3.5), 3 * (4 / np.sqrt(3.5) - 1)), rtol=1e-6)


def test_checks():
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
