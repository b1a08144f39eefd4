"""One contract for every implementation of norm_act_pool; PyTorch and hand-computed numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
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
    """(x, scale, bias, slope) and dy. Of whole numbers, so that windows have ties; one scale is negative, one 0."""
    rng = np.random.default_rng(seed)
    height, width, channels, batch = shape
    x = np.round(rng.standard_normal((batch, height, width, channels)) * 2 + 1)
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


CASES = [(shape, 0.25) for shape in SHAPES] + [("even", slope) for slope in SLOPES if slope != 0.25]


@pytest.mark.parametrize("pool", [True, False], ids=["pool", "no_pool"])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
class TestContract:
    def run(self, arguments, dy, **options):
        return jax.jit(functools.partial(values_and_gradients, **options))(arguments, dy)

    def test_values_and_gradients_in_float64(self, implementation, pool):
        with jax.enable_x64(True):
            given = [make(SHAPES[shape], slope, pool=pool, dtype=np.float64) for shape, slope in CASES]
            options = {"pool": pool, "layout": "HWCN", "implementation": implementation}
            results = jax.jit(lambda given: [values_and_gradients(*of, **options) for of in given])(given)
            for (arguments, dy), actual in zip(given, results, strict=True):
                assert_close(actual, by_definition(arguments, dy, pool=pool), 2e-14)

    def test_float32_and_bfloat16_in_either_layout(self, implementation, pool):
        """Of bfloat16 are the images alone: it computes in float32."""
        expected = by_definition(*make(SHAPES["odd"], pool=pool), pool=pool)

        @functools.partial(jax.jit, static_argnames="layout")
        def run(given, half, layout):
            options = {"pool": pool, "layout": layout, "implementation": implementation}
            return values_and_gradients(*given, **options), values_and_gradients(*half, **options)

        for layout, back in (("HWCN", (0, 1, 2, 3)), ("NHWC", (1, 2, 3, 0))):
            (x, *parameters), dy = make(SHAPES["odd"], layout=layout, pool=pool)
            x_half, dy_half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(dy, jnp.bfloat16)
            whole, half = run(((x, *parameters), dy), ((x_half, *parameters), dy_half), layout)
            for ((y, *statistics), (dx, *gradients)), wanted, tolerance in (
                (whole, expected, 5e-6),
                (half, by_definition((x_half.transpose(back), *parameters), dy_half.transpose(back), pool=pool), 2**-8),
            ):
                assert y.dtype == dx.dtype == (jnp.bfloat16 if tolerance == 2**-8 else jnp.float32)
                assert {a.dtype for a in (*statistics, *gradients)} == {np.dtype(np.float32)}
                (y_wanted, *statistics_wanted), (dx_wanted, *gradients_wanted) = wanted
                assert_close((y.transpose(back), dx.transpose(back)), (y_wanted, dx_wanted), tolerance)
                assert_close((statistics, gradients), (statistics_wanted, gradients_wanted), 5e-6)

    def test_vmap(self, implementation, pool):
        runs = [make(SHAPES["odd"], pool=pool, seed=seed) for seed in range(3)]
        (x, *parameters), dy = jax.tree.map(lambda *a: np.stack(a), *runs)
        run = functools.partial(self.run, pool=pool, layout="HWCN", implementation=implementation)
        expected = jax.tree.map(lambda *a: np.stack(a), *(by_definition(*of, pool=pool) for of in runs))
        assert_close(jax.vmap(run)((x, *parameters), dy), expected, 5e-6)

    def test_statistics_over_a_mapped_axis(self, implementation, pool):
        """Two members with half the batch each, by vmap or unchecked shard_map, give the result of the whole batch."""
        arguments, dy = make(SHAPES["even"], pool=pool)
        options = {"pool": pool, "layout": "HWCN", "implementation": implementation, "axis_name": "data"}

        def summed(arguments, dy):
            values, (dx, *gradients) = values_and_gradients(arguments, dy, **options)
            return values, (dx, *jax.lax.psum(gradients, "data"))

        images, shared = P(None, None, None, "data"), P()
        by_shard = jax.shard_map(
            summed,
            mesh=jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=((images, shared, shared, shared), images),
            out_specs=((images, shared, shared), (images, shared, shared, shared)),
            check_vma=False,
        )
        halve = functools.partial(np.split, indices_or_sections=2, axis=3)
        x, halves = arguments[0], np.stack(halve(dy))
        by_vmap = jax.vmap(summed, axis_name="data", in_axes=((0, None, None, None), 0))
        actual, ((y, *statistics), (dx, *gradients)) = jax.jit(
            lambda arguments, dy, x, halves: (by_shard(arguments, dy), by_vmap((x, *arguments[1:]), halves))
        )(arguments, dy, np.stack(halve(x)), halves)
        for of_both in (*statistics, *gradients):
            np.testing.assert_array_equal(of_both[0], of_both[1])
        expected = by_definition(arguments, dy, pool=pool)
        assert_close(actual, expected, 5e-6)
        whole = functools.partial(np.concatenate, axis=3)
        assert_close(((whole(y), *(a[0] for a in statistics)), (whole(dx), *(a[0] for a in gradients))), expected, 5e-6)

    @pytest.mark.parametrize("axis_type", AxisType, ids=str)
    def test_statistics_over_a_mesh(self, implementation, pool, axis_type):
        """Those of the whole batch, by the axis's name under shard_map where the mesh is manual, else by jit alone."""
        arguments, dy = make(SHAPES["even"], pool=pool)
        images, shared = P(None, None, None, "data"), P(None)
        specs = (images, shared, shared, P()), images
        run = functools.partial(values_and_gradients, pool=pool, layout="HWCN", implementation=implementation)
        kind = AxisType.Auto if axis_type == AxisType.Manual else axis_type
        mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
        if axis_type == AxisType.Manual:
            named = functools.partial(run, axis_name="data")
            out_specs = (images, shared, shared), specs[0]
            actual = jax.jit(jax.shard_map(named, mesh=mesh, in_specs=specs, out_specs=out_specs))(arguments, dy)
        else:
            placed = jax.device_put((arguments, dy), jax.tree.map(functools.partial(jax.NamedSharding, mesh), specs))
            actual = jax.jit(run)(*placed)
        if axis_type == AxisType.Explicit:
            assert [a.sharding.spec for a in jax.tree.leaves(actual)] == [images, shared, shared, *specs[0]]
        assert_close(actual, by_definition(arguments, dy, pool=pool), 5e-6)

    def test_equals_pytorch(self, implementation, pool):
        torch = pytest.importorskip("torch")
        options = {"pool": pool, "layout": "HWCN", "implementation": implementation}
        given = {slope: make(SHAPES["odd"], slope, pool=pool) for slope in (None, 0.25, -0.5)}
        results = jax.jit(lambda given: [values_and_gradients(*of, **options) for of in given])(list(given.values()))
        for (slope, ((x, scale, bias, _), dy)), actual in zip(given.items(), results, strict=True):
            norm = torch.nn.BatchNorm2d(2)
            norm.weight.data, norm.bias.data = torch.tensor(scale), torch.tensor(bias)
            activation = torch.nn.Identity() if slope is None else torch.nn.PReLU(init=slope)
            layers = [norm, activation, torch.nn.MaxPool2d(2) if pool else torch.nn.Identity()]
            x_torch = torch.tensor(x.transpose(3, 2, 0, 1).copy(), requires_grad=True)
            y_torch = torch.nn.Sequential(*layers)(x_torch)
            y_torch.backward(torch.tensor(dy.transpose(3, 2, 0, 1).copy()))

            (y, mean, var), (dx, dscale, dbias, dslope) = actual
            count = x.size // 2
            unbiased = np.asarray(var) * count / (count - 1)
            expected = [y_torch.detach(), x_torch.grad]
            assert_close([y, dx], [a.numpy().transpose(2, 3, 1, 0) for a in expected], 5e-6)
            assert_close([dscale, dbias], [norm.weight.grad.numpy(), norm.bias.grad.numpy()], 5e-6)
            assert_close(0.1 * mean, norm.running_mean.numpy(), 5e-6)  # momentum 0.1, from a mean of 0 and var of 1
            assert_close(0.9 + 0.1 * unbiased, norm.running_var.numpy(), 5e-6)
            if slope is not None:
                assert_close(dslope.reshape(1), activation.weight.grad.numpy(), 5e-6)


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_variance_when_the_mean_is_far_larger(implementation):
    """x itself, rounded to float32, is all that is lost: a relative 2⁻²³·5000 in a deviation of 1."""
    rng = np.random.default_rng(0)
    x = (5000 + rng.standard_normal((8, 8, 3, 64))).astype(np.float32)
    ones = np.ones(3, np.float32)
    run = functools.partial(norm_act_pool, slope=None, pool=False, layout="HWCN", implementation=implementation)
    y, mean, var = jax.jit(run)(x, ones, 0 * ones)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 3)), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var((0, 1, 3)), rtol=1e-5)
    normal = (exact - exact.mean((0, 1, 3))[:, None]) / exact.std((0, 1, 3))[:, None]
    np.testing.assert_allclose(y, normal, rtol=0, atol=2e-3)


def test_inference_with_the_statistics_of_the_batch_is_training():
    cases = [("HWCN", None, True), ("NHWC", 0.25, True), ("HWCN", -0.5, False), ("NHWC", None, False)]
    given = [make(SHAPES["odd"], slope, layout=layout, pool=pool)[0] for layout, slope, pool in cases]

    def run(given):
        for (layout, _, pool), (x, *parameters) in zip(cases, given, strict=True):
            options = {"pool": pool, "layout": layout}
            y, *statistics = norm_act_pool(x, *parameters, **options, implementation="reference")
            infer = functools.partial(norm_act_pool_inference, **options)
            yield y, infer(x, *parameters, *statistics), infer(x.astype(jnp.bfloat16), *parameters, *statistics)

    for y, inferred, half in jax.jit(lambda given: list(run(given)))(given):
        np.testing.assert_allclose(inferred, y, rtol=0, atol=1e-6)
        assert half.dtype == jnp.bfloat16  # x is of small whole numbers, which it rounds no more than y itself
        np.testing.assert_allclose(half.astype(np.float32), y, rtol=2**-8)
