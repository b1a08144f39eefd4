"""One contract for every implementation of conv2d, and the accuracy of each layer of the ArcLoss networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from kernels.conv2d import choice, conv2d
from kernels.conv2d.transforms import Form

# size, k, padding, c_in, c_out, batch
CASES = {
    "same": ((6, 6), 3, 1, 3, 4, 2),
    "valid": ((7, 8), 5, 0, 2, 3, 2),
    "wide_padding": ((5, 5), 3, 2, 2, 2, 3),
    "padding_wider_than_filter": ((3, 2), 3, 4, 1, 2, 2),
    "one_channel_one_image": ((4, 4), 5, 2, 1, 1, 1),
    "long_row": ((3, 17), 5, 2, 4, 2, 1),
    "smaller_than_filter": ((1, 2), 5, 2, 3, 2, 2),
    "filter_of_one": ((3, 5), 1, 0, 4, 2, 2),
}
POOLED = [case for case in CASES if case != "smaller_than_filter"]
MATRIX_PRODUCTS = ["dft", "toeplitz", "tiled", "squares"]


def make(size, k, padding, c_in, c_out, batch, *, layout="HWCN", dtype=np.float32, seed=0):
    """x, w and dy of these sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *size, c_in))
    w = rng.standard_normal((k, k, c_in, c_out)) / np.sqrt(k * k * c_in)
    dy = rng.standard_normal((batch, *(length + 2 * padding - k + 1 for length in size), c_out))
    return tuple(a.astype(dtype) for a in (to(layout, x), w, to(layout, dy)))


def to(layout, images):
    return np.einsum(f"nhwc->{layout.lower()}", images)


def by_definition(x, w, dy, padding, stride=1):
    """y, dx and dw in float64 as a sum over taps, layout HWCN."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    pads = (padding, padding)
    padded = np.pad(x, (pads, pads, (0, 0), (0, 0)))
    y, d_padded, dw = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(w)
    rows, columns = ((length - 1) * stride + 1 for length in dy.shape[:2])
    for s, t in np.ndindex(w.shape[:2]):
        window = np.s_[s : s + rows : stride, t : t + columns : stride]
        y += np.matmul(w[s, t].T, padded[window])
        d_padded[window] += np.matmul(w[s, t], dy)
        dw[s, t] = np.matmul(padded[window], dy.swapaxes(2, 3)).sum((0, 1))
    return y, d_padded[padding : padding + x.shape[0], padding : padding + x.shape[1]], dw


def y_dx_dw(x, w, dy, **arguments):
    y, vjp = jax.vjp(functools.partial(conv2d, **arguments), x, w)
    return y, *vjp(dy)


def pooled(y):
    """The maxima of 2×2 windows, a last odd row or column dropped, and a gradient for them. Layout HWCN."""
    height, width = (length // 2 for length in y.shape[:2])
    windows = y[: 2 * height, : 2 * width].reshape(height, 2, width, 2, *y.shape[2:])
    largest = windows.max((1, 3))
    return largest, np.random.default_rng(1).standard_normal(largest.shape)


def unpooled(y, d_pooled):
    """The gradient at the place of each maximum, 0 elsewhere."""
    dy = np.zeros_like(y)
    for i, j in np.ndindex(d_pooled.shape[:2]):
        window = y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        dy[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = (window == window.max((0, 1))) * d_pooled[i, j]
    return dy


def assert_close(actual, expected, tolerance, case=""):
    """Every error at most `tolerance` of the largest value."""
    for name, a, b in zip(("y", "dx", "dw"), actual, expected, strict=True):
        error = np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b))
        assert error <= tolerance, f"{case} {name}: {error:.1e} of the largest value"


def run_all(cases, arrays, *, pool=False, **arguments):
    """y, dx and dw of every case, by one program."""

    @jax.jit
    def run(arrays):
        return {
            case: y_dx_dw(*arrays[case], padding=CASES[case][2], layout="HWCN", pool=pool, **arguments)
            for case in cases
        }

    return run(arrays)


@pytest.mark.parametrize("implementation", ["reference", "xla", *MATRIX_PRODUCTS])
class TestContract:
    @pytest.fixture(autouse=True)
    def small_tiles(self, monkeypatch):
        monkeypatch.setattr(choice, "TILE", 4)

    def test_values_and_gradients_in_float64(self, implementation):
        cases = CASES if implementation in MATRIX_PRODUCTS else ["padding_wider_than_filter"]
        with jax.enable_x64(True):
            arrays = {case: make(*CASES[case], dtype=np.float64) for case in cases}
            for case, actual in run_all(cases, arrays, implementation=implementation).items():
                assert_close(actual, by_definition(*arrays[case], CASES[case][2]), 1e-14, case)

    def test_pool(self, implementation):
        """In float64, where rounding separates no two values that the definition does not."""
        cases = POOLED if implementation in ("tiled", "squares") else ["wide_padding"]
        with jax.enable_x64(True):
            arrays, expected = {}, {}
            for case in cases:
                x, w, dy = make(*CASES[case], dtype=np.float64)
                y, _, _ = by_definition(x, w, dy, CASES[case][2])
                largest, d_pooled = pooled(y)
                arrays[case] = x, w, d_pooled
                expected[case] = largest, *by_definition(x, w, unpooled(y, d_pooled), CASES[case][2])[1:]
            for case, actual in run_all(cases, arrays, pool=True, implementation=implementation).items():
                assert_close(actual, expected[case], 1e-13, case)

    def test_float32_in_either_layout(self, implementation):
        padding = CASES["same"][2]
        expected = by_definition(*make(*CASES["same"]), padding)
        arrays = {layout: make(*CASES["same"], layout=layout) for layout in ("HWCN", "NHWC")}

        @jax.jit
        def run(arrays):
            options = {"padding": padding, "implementation": implementation}
            return {layout: y_dx_dw(*arrays[layout], layout=layout, **options) for layout in arrays}

        results = run(arrays)
        assert_close(results["HWCN"], expected, 2e-6)
        y, dx, dw = results["NHWC"]
        assert_close((y.transpose(1, 2, 3, 0), dx.transpose(1, 2, 3, 0), dw), expected, 2e-6)
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {np.dtype(np.float32)}

    def test_vmap_over_any_of_both(self, implementation):
        x, w, dy = make(*CASES["same"])
        run = jax.jit(functools.partial(y_dx_dw, padding=1, layout="HWCN", implementation=implementation))
        factors = np.array([1, 2, -1], np.float32)
        of_x, of_w = np.multiply.outer(factors, x), np.moveaxis(np.multiply.outer(factors, w), 0, 3)
        by_x, by_w = jax.vmap(run, (0, None, None))(of_x, w, dy), jax.vmap(run, (None, 3, None))(x, of_w, dy)
        for i, factor in enumerate(factors):
            assert_close([a[i] for a in by_x], by_definition(factor * x, w, dy, 1), 2e-6)
            assert_close([a[i] for a in by_w], by_definition(x, factor * w, dy, 1), 2e-6)

    @pytest.mark.parametrize("axis_type", AxisType, ids=str)
    def test_over_a_mesh(self, implementation, axis_type):
        """By shard_map where the mesh is manual, else by jit. The filters are shared, so their gradient is a sum."""
        x, w, dy = make((5, 5), 3, 1, 2, 3, 4)
        run = functools.partial(y_dx_dw, padding=1, layout="HWCN", implementation=implementation)
        images = P(None, None, None, "data")
        if axis_type == AxisType.Manual:
            mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
            split = functools.partial(jax.shard_map, mesh=mesh, in_specs=(images, P(), images))
            checked = split(run, out_specs=(images, images, P()))

            def summed(x, w, dy):
                y, dx, dw = run(x, w, dy)
                return y, dx, jax.lax.psum(dw, "data")

            unchecked = split(summed, out_specs=(images, images, P()), check_vma=False)
            results = jax.jit(lambda *arrays: (checked(*arrays), unchecked(*arrays)))(x, w, dy)
        else:
            mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
            specs = images, P(None, None, None, None), images
            placed = jax.device_put((x, w, dy), tuple(jax.NamedSharding(mesh, spec) for spec in specs))
            results = [jax.jit(run)(*placed)]
            if axis_type == AxisType.Explicit:
                assert [a.sharding.spec for a in results[0]] == [images, images, specs[1]]
        for result in results:
            assert_close(result, by_definition(x, w, dy, 1), 2e-6)

    @pytest.mark.parametrize("rare", ["stride", "even_filter", "oblong_filter", "bfloat16"])
    def test_serves_or_refuses_rare_arguments(self, implementation, rare):
        """The stride is 2 in all of them but for bfloat16."""
        x, w, dy = make((7, 6), 3, 1, 2, 3, 2)
        w = {"even_filter": w[:2, :2], "oblong_filter": w[:1]}.get(rare, w)
        stride, tolerance = (1, 2**-7) if rare == "bfloat16" else (2 if rare == "stride" else 1, 2e-6)
        out = [(length + 2 - k) // stride + 1 for length, k in zip((7, 6), w.shape[:2], strict=True)]
        dy = np.resize(dy, (*out, 3, 2))
        arrays = [a.astype(jnp.bfloat16 if rare == "bfloat16" else np.float32) for a in (x, w, dy)]
        run = functools.partial(y_dx_dw, stride=stride, padding=1, layout="HWCN", implementation=implementation)
        if implementation in MATRIX_PRODUCTS:
            with pytest.raises(NotImplementedError, match=f"^{implementation} .* only, not"):
                run(*arrays)
        else:
            actual = jax.jit(run)(*arrays)
            assert {a.dtype for a in actual} == {arrays[0].dtype}
            assert_close(actual, by_definition(*arrays, 1, stride), tolerance)


@pytest.mark.parametrize("implementation", MATRIX_PRODUCTS)
def test_input_gradient_costs_nothing_unless_used(implementation):
    x, w, dy = make((6, 6), 5, 2, 4, 8, 16)

    def operations(wanted):
        run = functools.partial(y_dx_dw, padding=2, layout="HWCN", implementation=implementation)
        return jax.jit(lambda *a: run(*a)[wanted]).lower(x, w, dy).compile().cost_analysis()["flops"]

    assert operations(np.s_[2:]) < 0.8 * operations(np.s_[1:])


@pytest.mark.parametrize("implementation", ["toeplitz", "squares"])
def test_many_channels_are_refused(implementation):
    x, w, _ = make((6, 6), 3, 1, 5, 3, 2)
    with pytest.raises(NotImplementedError, match="at most 4 input channels, not 5"):
        conv2d(x, w, padding=1, layout="HWCN", implementation=implementation)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "separable"])
@pytest.mark.parametrize("gauss", [True, False], ids=["gauss", "pairs"])
def test_every_form_of_the_dft(monkeypatch, dense, gauss):
    """Also the forms that no size of these would choose, and products in either order."""
    monkeypatch.setattr(choice, "dft_form", lambda size, c_in, c_out: Form(dense, gauss))
    monkeypatch.setattr(choice, "is_plain", lambda channels: dense)
    with jax.enable_x64(True):
        arrays = {case: make(*CASES[case], dtype=np.float64) for case in CASES}
        for case, actual in run_all(CASES, arrays, implementation="dft").items():
            assert_close(actual, by_definition(*arrays[case], CASES[case][2]), 1e-14, case)


# Every distinct layer of the twelve ArcLoss variants: size, k, padding, c_in, c_out.
ARCLOSS_LAYERS = [
    *[(28, 3, 0, 1, 16), (13, 3, 0, 16, 32), (11, 3, 0, 32, 64), (9, 3, 0, 64, 128), (7, 3, 0, 128, 256)],  # v0
    *[(28, 5, 2, 1, 32), (28, 5, 2, 32, 64), (14, 5, 2, 64, 128), (14, 5, 2, 128, 256)],  # v1, v1_1, v1_1_4
    *[(7, 5, 2, 256, 512), (7, 5, 2, 512, 512), (3, 5, 2, 512, 256), (3, 5, 2, 256, 128), (3, 5, 2, 128, 64)],
    *[(28, 5, 2, 32, 32), (14, 5, 2, 32, 64), (14, 5, 2, 64, 64), (7, 5, 2, 64, 128), (7, 5, 2, 128, 128)],  # v1_2_3
    *[(3, 5, 2, 128, 256), (1, 5, 2, 64, 2)],  # v1_1_2, v1_1_3
    *[(28, 3, 1, 1, 32), (28, 3, 2, 32, 64), (15, 3, 1, 64, 128), (15, 3, 2, 128, 256)],  # v1_2
    *[(8, 3, 1, 256, 256), (8, 3, 2, 256, 128)],
    *[(14, 5, 2, 32, 32), (7, 5, 2, 32, 32), (3, 5, 2, 32, 32)],  # v2
]


WIDE = [layer for layer in ARCLOSS_LAYERS if layer[3] * layer[4] > 64 * 128]


@pytest.mark.parametrize("layers", [pytest.param(WIDE, marks=pytest.mark.slow), set(ARCLOSS_LAYERS) - set(WIDE)])
def test_accuracy_of_arcloss_layers(layers):
    """At most 2e-5 of the largest value in float32; measured: 1e-6 to 6e-6, growing with channels and pixels."""
    layers = sorted(layers)
    arrays = [make((size, size), k, padding, c_in, c_out, 4) for size, k, padding, c_in, c_out in layers]

    @jax.jit
    def run(arrays):
        options = [{"padding": of[2], "implementation": "toeplitz" if of[3] == 1 else "dft"} for of in layers]
        return [y_dx_dw(*of, layout="HWCN", **option) for of, option in zip(arrays, options, strict=True)]

    for actual, of, layer in zip(run(arrays), arrays, layers, strict=True):
        assert_close(actual, by_definition(*of, layer[2]), 2e-5, layer)


@pytest.mark.parametrize(
    "shape", [(8, 3, 1, 1, 3, 16), (8, 3, 1, 2, 3, 16), (41, 3, 1, 2, 3, 1), (41, 3, 1, 5, 3, 1)], ids=str
)
def test_the_automatic_choice_is_right_too(shape):
    size, *rest = shape
    x, w, dy = make((size, size), *rest)
    actual = jax.jit(functools.partial(y_dx_dw, padding=1, layout="HWCN"))(x, w, dy)
    assert_close(actual, by_definition(x, w, dy, 1), 2e-6)
