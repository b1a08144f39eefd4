"""One contract for every implementation of grouped_conv2d, and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels.grouped_conv2d import grouped_conv2d

# images [N, H, W, C_in], k_h and k_w, C_out, groups, stride, padding
CASES = {
    "depthwise": ((2, 6, 5, 4), (3, 3), 4, 4, 1, 1),
    "depthwise_stride_2": ((2, 7, 6, 3), (3, 3), 3, 3, 2, 1),
    "depthwise_5x5": ((2, 6, 8, 2), (5, 5), 2, 2, 1, 2),
    "two_filters_a_channel": ((2, 5, 5, 3), (3, 3), 6, 3, 1, 1),
    "groups": ((2, 6, 5, 6), (3, 3), 4, 2, 1, 1),
    "groups_stride_2": ((2, 6, 9, 6), (3, 3), 9, 3, 2, 1),
    "stride_3_unpadded": ((2, 8, 9, 4), (3, 2), 4, 2, 3, 0),
    "one_group": ((2, 4, 5, 3), (3, 3), 2, 1, 1, 1),
    "filter_of_one": ((2, 3, 4, 4), (1, 1), 4, 2, 2, 0),
    "one_channel": ((2, 4, 4, 1), (3, 3), 1, 1, 1, 1),
}


def make(shape, kernel, outputs, groups, stride, padding, *, dtype=np.float32):
    """x, w and dy."""
    rng = np.random.default_rng(0)
    out = [(length + 2 * padding - k) // stride + 1 for length, k in zip(shape[1:3], kernel, strict=True)]
    x = rng.standard_normal(shape)
    w = rng.standard_normal((*kernel, shape[3] // groups, outputs))
    return tuple(a.astype(dtype) for a in (x, w, rng.standard_normal((shape[0], *out, outputs))))


def by_definition(x, w, dy, groups, stride, padding):
    """y, dx and dw in float64, an output pixel and a group at a time."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    y, d_padded, dw = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(w)
    inputs, outputs = w.shape[2], w.shape[3] // groups
    for i, j, group in np.ndindex(*dy.shape[1:3], groups):
        own, filters = np.s_[group * inputs : (group + 1) * inputs], np.s_[group * outputs : (group + 1) * outputs]
        window = np.s_[:, stride * i : stride * i + w.shape[0], stride * j : stride * j + w.shape[1], own]
        y[:, i, j, filters] = np.einsum("nstc,stco->no", padded[window], w[..., filters])
        d_padded[window] += np.einsum("no,stco->nstc", dy[:, i, j, filters], w[..., filters])
        dw[..., filters] += np.einsum("nstc,no->stco", padded[window], dy[:, i, j, filters])
    return y, d_padded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]], dw


def y_dx_dw(x, w, dy, **arguments):
    y, vjp = jax.vjp(functools.partial(grouped_conv2d, **arguments), x, w)
    return y, *vjp(dy)


def assert_close(actual, expected, tolerance):
    """Every error at most `tolerance` of the largest value."""
    for name, a, b in zip(("y", "dx", "dw"), actual, expected, strict=True):
        error = np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b))
        assert error <= tolerance, f"{name}: {error:.1e} of the largest value"


@pytest.mark.parametrize("implementation", ["reference", "xla", "taps"])
class TestContract:
    def run(self, arrays, case, implementation):
        groups, stride, padding = CASES[case][3:]
        arguments = {"groups": groups, "stride": stride, "padding": padding, "implementation": implementation}
        return jax.jit(functools.partial(y_dx_dw, **arguments))(*arrays)

    @pytest.mark.parametrize("case", CASES)
    def test_values_and_gradients(self, implementation, case):
        arrays = make(*CASES[case])
        actual = self.run(arrays, case, implementation)
        assert_close(actual, by_definition(*arrays, *CASES[case][3:]), 2e-6)
        assert [a.dtype for a in actual] == [np.float32] * 3

    @pytest.mark.parametrize("case", ["depthwise", "groups"])
    def test_float64(self, implementation, case):
        arrays = make(*CASES[case], dtype=np.float64)
        with jax.enable_x64(True):
            assert_close(self.run(arrays, case, implementation), by_definition(*arrays, *CASES[case][3:]), 1e-14)

    @pytest.mark.parametrize("case", ["depthwise", "groups"])
    def test_bfloat16(self, implementation, case):
        arrays = tuple(jnp.asarray(a, jnp.bfloat16) for a in make(*CASES[case]))
        actual = self.run(arrays, case, implementation)
        assert_close(actual, by_definition(*arrays, *CASES[case][3:]), 2**-7)
        assert [a.dtype for a in actual] == [jnp.bfloat16] * 3

    @pytest.mark.parametrize("case", ["depthwise", "groups_stride_2"])
    def test_vmap(self, implementation, case):
        x, w, dy = make(*CASES[case])
        run = functools.partial(self.run, case=case, implementation=implementation)
        actual = jax.vmap(lambda x: run((x, w, dy)))(np.stack([x, -2 * x]))
        for i, factor in enumerate((1, -2)):
            expected = by_definition(factor * x, w, dy, *CASES[case][3:])
            assert_close([of_both[i] for of_both in actual], expected, 2e-6)

    @pytest.mark.parametrize("case", ["depthwise", "groups"])
    def test_gradients_under_shard_map(self, implementation, case):
        """Each of two devices has one image; the filters are shared, so their gradient is of both."""
        arrays = make(*CASES[case])
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        images = P("data")
        sharded = jax.shard_map(
            lambda *arrays: self.run(arrays, case, implementation),
            mesh=mesh,
            in_specs=(images, P(), images),
            out_specs=(images, images, P()),
        )
        assert_close(jax.jit(sharded)(*arrays), by_definition(*arrays, *CASES[case][3:]), 2e-6)


@pytest.mark.parametrize("case", CASES)
def test_equals_pytorch(case):
    torch = pytest.importorskip("torch")
    groups, stride, padding = CASES[case][3:]
    x, w, dy = make(*CASES[case])
    x_torch = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    w_torch = torch.tensor(w.transpose(3, 2, 0, 1).copy(), requires_grad=True)
    y_torch = torch.nn.functional.conv2d(x_torch, w_torch, stride=stride, padding=padding, groups=groups)
    y_torch.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
    expected = y_torch.detach(), x_torch.grad
    expected = [a.numpy().transpose(0, 2, 3, 1) for a in expected] + [w_torch.grad.numpy().transpose(2, 3, 1, 0)]
    actual = jax.jit(functools.partial(y_dx_dw, groups=groups, stride=stride, padding=padding))(x, w, dy)
    assert_close(actual, expected, 2e-6)


def test_checks():
    x, w = jnp.ones((1, 4, 4, 6)), jnp.ones((3, 3, 2, 6))
    for arguments, complaint in [
        ({"implementation": "triton"}, "no implementation 'triton'"),
        ({"x": x[0]}, "images"),
        ({"groups": 2}, "2 groups"),
        ({"groups": 0}, "0 groups"),
        ({"w": w[..., :5]}, "3 groups"),
        ({"w": w.astype(jnp.bfloat16)}, "one dtype"),
        ({"stride": 0}, "stride of 1 or more"),
        ({"padding": -1}, "no negative padding"),
        ({"x": x[:, :2], "padding": 0}, "do not fit"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            grouped_conv2d(**{"x": x, "w": w, "groups": 3, "padding": 1, **arguments})
