"""One contract for every implementation of max_pool, and PyTorch."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels.max_pool import max_pool
from kernels.platform import portable
from tests.fixtures import make_torch_pools as script

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = np.load(FIXTURES / "torch_pools.npz")

# batch, height, width, channels; size, stride, padding
CASES = {
    "side_by_side": ((3, 4, 6, 2), (2, 2, 0)),
    "odd": ((2, 5, 7, 3), (2, 2, 0)),
    "threes": ((2, 7, 9, 1), (3, 3, 0)),
    "overlapping": ((2, 6, 5, 2), (3, 1, 0)),
    "as_resnet": ((2, 8, 7, 3), (3, 2, 1)),
    "apart": ((2, 8, 7, 2), (2, 3, 1)),
    "touching_and_padded": ((1, 5, 6, 1), (3, 3, 1)),
    "smallest": ((1, 2, 2, 1), (2, 2, 0)),
    "one_pixel": ((2, 1, 1, 2), (3, 2, 1)),
    "empty": ((0, 4, 4, 1), (2, 2, 0)),
}


def to(layout, images):
    return np.einsum(f"nhwc->{layout.lower()}", images)


def make(shape, windows, *, dtype=np.float32):
    """x and dy. x is of whole numbers from −2 to 2, so that most windows have ties."""
    rng = np.random.default_rng(0)
    size, stride, padding = windows
    pooled = [(length + 2 * padding - size) // stride + 1 for length in shape[1:3]]
    x = rng.integers(-2, 3, shape).astype(dtype)
    return x, rng.standard_normal((shape[0], *pooled, shape[3])).astype(dtype)


def by_definition(x, dy, windows):
    """y and dx, layout NHWC, a window at a time."""
    size, stride, padding = windows
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(np.asarray(x, np.float64), pads, constant_values=-np.inf)
    y, d_padded = np.zeros(dy.shape), np.zeros(padded.shape)
    for n, i, j, c in np.ndindex(*dy.shape):
        window = padded[n, stride * i : stride * i + size, stride * j : stride * j + size, c]
        row, column = divmod(np.argmax(window), size)  # NumPy's too is the first in row-major order
        y[n, i, j, c] = window[row, column]
        d_padded[n, stride * i + row, stride * j + column, c] += dy[n, i, j, c]
    return y, d_padded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]


def value_and_gradient(x, dy, windows, **options):
    size, stride, padding = windows
    pool = functools.partial(max_pool, size=size, stride=stride, padding=padding, **options)
    y, vjp = jax.vjp(pool, x)
    return y, *vjp(dy)


def assert_right(actual, x, dy, windows, atol=1e-6):
    for got, want in zip(actual, by_definition(x, np.asarray(dy, np.float64), windows), strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=atol)


def over_mesh(run, axis_type, arrays):
    """run(arrays), whose first axes are split over two devices."""
    if axis_type == AxisType.Manual:
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
        return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(arrays)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    results = jax.jit(run)(jax.device_put(arrays, NamedSharding(mesh, P("data"))))
    if axis_type == AxisType.Explicit:
        assert {leaf.sharding.spec for leaf in jax.tree.leaves(results)} == {P("data", None, None, None)}
    return results


@pytest.mark.parametrize("implementation", ["reference", "winners"])
class TestContract:
    @pytest.mark.parametrize("layout", ["NHWC", "HWCN"])
    def test_values_and_gradients(self, implementation, layout):
        arrays = {case: make(*CASES[case]) for case in CASES}

        @jax.jit
        def run(arrays):
            options = {"layout": layout, "implementation": implementation}
            return {case: value_and_gradient(*of_case, CASES[case][1], **options) for case, of_case in arrays.items()}

        results = run(jax.tree.map(functools.partial(to, layout), arrays))
        for case, (x, dy) in arrays.items():
            back = [np.einsum(f"{layout.lower()}->nhwc", a) for a in results[case]]
            assert_right(back, x, dy, CASES[case][1])

    @pytest.mark.parametrize("case", ["odd", "as_resnet"])
    def test_bfloat16_and_vmap(self, implementation, case):
        shape, windows = CASES[case]
        x, dy = make(shape, windows)
        run = jax.jit(functools.partial(value_and_gradient, windows=windows, implementation=implementation))
        half = x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)
        y, dx = run(*half)
        assert y.dtype == dx.dtype == jnp.bfloat16
        assert_right((y, dx), *half, windows, atol=2**-7 * np.abs(dx).max().astype(float))
        y, dx = jax.vmap(run)(np.stack([x, -x]), np.stack([dy, 2 * dy]))
        assert_right((y[0], dx[0]), x, dy, windows)
        assert_right((y[1], dx[1]), -x, 2 * dy, windows)

    @pytest.mark.parametrize("axis_type", AxisType, ids=str)
    def test_over_a_mesh(self, implementation, axis_type):
        """Both kinds of windows, by shard_map where the mesh is manual, else by jit."""
        cases = [CASES[case] for case in ("odd", "as_resnet")]
        arrays = [make(*case) for case in cases]

        def run(arrays):
            options = {"implementation": implementation}
            return [value_and_gradient(*of, case[1], **options) for case, of in zip(cases, arrays, strict=True)]

        for got, case, (x, dy) in zip(over_mesh(run, axis_type, arrays), cases, arrays, strict=True):
            assert_right(got, x, dy, case[1])

    @pytest.mark.parametrize("layout", ["NHWC", "HWCN"])
    def test_nan_and_infinities_as_in_pytorch(self, implementation, layout):
        """The last NaN of a window has its gradient, and the first −∞ inside the image that of a window of −∞ alone."""
        wanted = {name: [to(layout, RECORDED[f"pooled/{name}/{a}"]) for a in ("y", "dx")] for name in script.WINDOWS}
        dy = {name: to(layout, script.gradients(RECORDED[f"pooled/{name}/y"])) for name in wanted}

        @jax.jit
        def run(x, dy):
            options = {"layout": layout, "implementation": implementation}
            return {name: value_and_gradient(x, dy[name], script.WINDOWS[name], **options) for name in dy}

        for name, results in run(to(layout, script.images()), dy).items():
            for got, want in zip(results, wanted[name], strict=True):
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-6, err_msg=name)

    @pytest.mark.parametrize("dtype", [np.int32, np.uint8, jnp.int4])
    def test_integers(self, implementation, dtype):
        """Padding is below any integer, and an integer has no gradient."""
        x = np.array([[-8, -8, 3], [-8, -8, -5]]).clip(jnp.iinfo(dtype).min).reshape(1, 2, 3, 1)
        pool = functools.partial(max_pool, size=3, stride=2, padding=1, implementation=implementation)
        y, vjp = jax.vjp(pool, jnp.asarray(x, dtype))
        assert y.dtype == dtype and y[0, 0].ravel().tolist() == [x[0, 0, 0, 0], 3]
        assert vjp(np.zeros(y.shape, jax.dtypes.float0))[0].dtype == jax.dtypes.float0


def test_the_last_place_of_the_largest_window():
    x = np.zeros((1, 11, 11, 1), np.float32)
    x[0, 10, 10] = 1
    y, dx = jax.jit(functools.partial(value_and_gradient, windows=(11, 11, 0)))(x, jnp.full((1, 1, 1, 1), 3.0))
    assert y.item() == 1 and dx.sum() == dx[0, 10, 10, 0] == 3


@pytest.mark.parametrize("name", script.WINDOWS)
def test_the_recorded_pools_are_pytorchs(name):
    pytest.importorskip("torch")
    for what, live in zip(("y", "dx"), script.pooled(name), strict=True):
        np.testing.assert_array_equal(RECORDED[f"pooled/{name}/{what}"], live)


def test_off_the_cpu_the_value_is_xlas_own_reduction():
    for dtype, of_padding in ((np.float32, -np.inf), (jnp.bfloat16, -np.inf), (np.int32, -(2**31))):
        x = make((2, 8, 7, 3), (3, 2, 1))[0].astype(dtype)
        with portable():
            pool = jax.jit(lambda x: max_pool(x, size=3, stride=2, padding=1))
            text = pool.lower(x).as_text()
            y = pool(x)
        assert text.count("reduce_window") == 1 and not np.any(np.asarray(y) == of_padding)
        np.testing.assert_array_equal(y, max_pool(x, size=3, stride=2, padding=1))


def test_checks(unenforced):
    x = jnp.ones((1, 4, 4, 1))
    for arguments, complaint in [
        ({"layout": "NCHW"}, "layouts NHWC, HWCN, not 'NCHW'"),
        ({"implementation": "triton"}, "no implementation 'triton'; there is reference, winners, or None"),
        ({"x": x[0]}, r"images \[NHWC\], not \(4, 4, 1\)"),
        ({"x": x > 0}, "floating point or integers, not bool"),
        ({"x": x.astype(jnp.complex64)}, "floating point or integers, not complex64"),
        ({"size": 0}, "size of 1 to 11"),
        ({"size": 12}, "size of 1 to 11"),
        ({"stride": 0}, "stride of 1 or more"),
        ({"padding": -1}, "at most half the size, not 2, 2 and -1"),
        ({"size": 3, "padding": 2}, "at most half"),
        ({"size": 5}, "too small for 5×5"),
        ({"x": x[:, :, :1]}, "too small for 2×2"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            max_pool(**{"x": x, **arguments})
