"""One contract for every implementation of grouped_conv2d, and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
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


def run_all(arrays, implementation=None):
    """y, dx and dw of every case of `arrays`, by one program."""

    @jax.jit
    def run(arrays):
        def of(case):
            groups, stride, padding = CASES[case][3:]
            options = {"groups": groups, "stride": stride, "padding": padding, "implementation": implementation}
            return y_dx_dw(*arrays[case], **options)

        return {case: of(case) for case in arrays}

    return run(arrays)


@pytest.mark.parametrize("implementation", ["reference", "xla", "taps"])
class TestContract:
    def test_values_and_gradients_in_float64(self, implementation):
        cases = CASES if implementation == "taps" else ["depthwise_stride_2", "stride_3_unpadded"]
        with jax.enable_x64(True):
            arrays = {case: make(*CASES[case], dtype=np.float64) for case in cases}
            for case, actual in run_all(arrays, implementation).items():
                assert_close(actual, by_definition(*arrays[case], *CASES[case][3:]), 1e-14)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (jnp.bfloat16, 2**-7)])
    def test_narrower_dtypes(self, implementation, dtype, tolerance):
        arrays = {case: make(*CASES[case], dtype=dtype) for case in ("depthwise", "groups")}
        for case, actual in run_all(arrays, implementation).items():
            assert {a.dtype for a in actual} == {np.dtype(dtype)}
            assert_close(actual, by_definition(*arrays[case], *CASES[case][3:]), tolerance)

    @pytest.mark.parametrize("case", ["depthwise", "groups_stride_2"])
    def test_vmap(self, implementation, case):
        x, w, dy = make(*CASES[case])
        groups, stride, padding = CASES[case][3:]
        options = {"groups": groups, "stride": stride, "padding": padding, "implementation": implementation}
        run = jax.jit(jax.vmap(functools.partial(y_dx_dw, **options), (0, 3, None)))
        actual = run(np.stack([x, -2 * x]), np.stack([w, 3 * w], 3), dy)
        for i, (of_x, of_w) in enumerate(((1, 1), (-2, 3))):
            expected = by_definition(of_x * x, of_w * w, dy, *CASES[case][3:])
            assert_close([of_both[i] for of_both in actual], expected, 2e-6)

    @pytest.mark.parametrize("axis_type", AxisType, ids=str)
    def test_over_a_mesh(self, implementation, axis_type):
        """An image on each of two devices, by shard_map where the mesh is manual, else by jit.

        The filters are shared, so their gradient is a sum.
        """
        arrays = {case: make(*CASES[case]) for case in ("depthwise", "groups")}
        specs = P("data", None, None, None), P(None, None, None, None), P("data", None, None, None)
        kind = AxisType.Auto if axis_type == AxisType.Manual else axis_type
        mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
        run = functools.partial(run_all, implementation=implementation)
        if axis_type == AxisType.Manual:
            out_specs = specs[0], specs[0], specs[1]
            results = jax.jit(
                jax.shard_map(
                    run,
                    mesh=mesh,
                    in_specs=(dict.fromkeys(arrays, specs),),
                    out_specs=dict.fromkeys(arrays, out_specs),
                )
            )(arrays)
        else:
            placings = tuple(jax.NamedSharding(mesh, spec) for spec in specs)
            results = run({case: jax.device_put(of_case, placings) for case, of_case in arrays.items()})
        for case, actual in results.items():
            if axis_type == AxisType.Explicit:
                assert [a.sharding.spec for a in actual] == [specs[0], specs[0], specs[1]]
            assert_close(actual, by_definition(*arrays[case], *CASES[case][3:]), 2e-6)


def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    arrays = {case: make(*CASES[case]) for case in CASES}
    for case, actual in run_all(arrays).items():
        (x, w, dy), (groups, stride, padding) = arrays[case], CASES[case][3:]
        x_torch = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
        w_torch = torch.tensor(w.transpose(3, 2, 0, 1).copy(), requires_grad=True)
        y_torch = torch.nn.functional.conv2d(x_torch, w_torch, stride=stride, padding=padding, groups=groups)
        y_torch.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
        images = [a.numpy().transpose(0, 2, 3, 1) for a in (y_torch.detach(), x_torch.grad)]
        assert_close(actual, [*images, w_torch.grad.numpy().transpose(2, 3, 1, 0)], 2e-6)


def test_checks(unenforced):
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
