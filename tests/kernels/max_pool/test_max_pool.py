"""One contract for every implementation of max_pool, and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels.max_pool import max_pool

# batch, height, width, channels; size, stride, padding
CASES = {
    "side_by_side": ((3, 4, 6, 2), (2, 2, 0)),
    "odd": ((2, 5, 7, 3), (2, 2, 0)),
    "threes": ((2, 7, 9, 1), (3, 3, 0)),
    "overlapping": ((2, 6, 5, 2), (3, 1, 0)),
    "as_resnet": ((2, 8, 7, 3), (3, 2, 1)),
    "apart": ((2, 8, 7, 2), (2, 3, 1)),
    "smallest": ((1, 2, 2, 1), (2, 2, 0)),
    "one_pixel": ((2, 1, 1, 2), (3, 2, 1)),
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


@pytest.mark.parametrize("implementation", ["reference", "winners"])
class TestContract:
    def run(self, x, dy, windows, **options):
        return jax.jit(functools.partial(value_and_gradient, windows=windows, **options))(x, dy)

    @pytest.mark.parametrize("layout", ["NHWC", "HWCN"])
    @pytest.mark.parametrize("case", CASES)
    def test_values_and_gradients(self, implementation, layout, case):
        shape, windows = CASES[case]
        x, dy = make(shape, windows)
        y, dx = self.run(to(layout, x), to(layout, dy), windows, layout=layout, implementation=implementation)
        expected_y, expected_dx = by_definition(x, dy, windows)
        np.testing.assert_array_equal(y, to(layout, expected_y))
        np.testing.assert_allclose(dx, to(layout, expected_dx), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("case", ["odd", "as_resnet"])
    def test_bfloat16(self, implementation, case):
        shape, windows = CASES[case]
        x, dy = (jnp.asarray(a, jnp.bfloat16) for a in make(shape, windows))
        y, dx = self.run(x, dy, windows, implementation=implementation)
        assert y.dtype == dx.dtype == jnp.bfloat16
        expected_y, expected_dx = by_definition(x, np.asarray(dy, np.float64), windows)
        np.testing.assert_array_equal(np.asarray(y, np.float64), expected_y)
        np.testing.assert_allclose(
            np.asarray(dx, np.float64), expected_dx, rtol=0, atol=2**-7 * np.abs(expected_dx).max()
        )

    def test_nan_is_passed_on(self, implementation):
        x = np.zeros((1, 2, 6, 1), np.float32)
        x[0, 0, 0] = x[0, 1, 3] = np.nan  # the first of its window, and the last
        y = max_pool(x, implementation=implementation)
        np.testing.assert_array_equal(np.isnan(y[0, 0, :, 0]), [True, True, False])

    @pytest.mark.parametrize("case", ["odd", "as_resnet"])
    def test_vmap(self, implementation, case):
        shape, windows = CASES[case]
        x, dy = make(shape, windows)
        run = functools.partial(self.run, windows=windows, implementation=implementation)
        y, dx = jax.vmap(run)(np.stack([x, -x]), np.stack([dy, 2 * dy]))
        for i, images, cotangent in ((0, x, dy), (1, -x, 2 * dy)):
            expected_y, expected_dx = by_definition(images, cotangent, windows)
            np.testing.assert_array_equal(y[i], expected_y)
            np.testing.assert_allclose(dx[i], expected_dx, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("case", ["odd", "as_resnet"])
    def test_under_shard_map(self, implementation, case):
        shape, windows = CASES[case]
        x, dy = make(shape, windows)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        run = functools.partial(value_and_gradient, windows=windows, implementation=implementation)
        sharded = jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        y, dx = jax.jit(sharded)(x, dy)
        expected_y, expected_dx = by_definition(x, dy, windows)
        np.testing.assert_array_equal(y, expected_y)
        np.testing.assert_allclose(dx, expected_dx, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_equals_pytorch(case):
    torch = pytest.importorskip("torch")
    shape, windows = CASES[case]
    x, dy = make(shape, windows)
    x_torch = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    y_torch = torch.nn.MaxPool2d(*windows)(x_torch)
    y_torch.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
    y, dx = jax.jit(functools.partial(value_and_gradient, windows=windows))(x, dy)
    np.testing.assert_array_equal(y, y_torch.detach().numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(dx, x_torch.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_checks():
    x = jnp.ones((1, 4, 4, 1))
    for arguments, complaint in [
        ({"layout": "NCHW"}, "layouts"),
        ({"implementation": "triton"}, "no implementation 'triton'"),
        ({"x": x[0]}, "images"),
        ({"size": 0}, "size of 1 to 11"),
        ({"size": 12}, "size of 1 to 11"),
        ({"stride": 0}, "stride of 1 or more"),
        ({"size": 3, "padding": 2}, "at most half"),
        ({"size": 5}, "too small for 5×5"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            max_pool(**{"x": x, **arguments})
