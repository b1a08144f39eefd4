"""One contract for every implementation of conv2d, and the accuracy of each layer of the ArcLoss networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kernels.conv2d import choice, conv2d
from kernels.conv2d.transforms import Plan

# size, k, padding, c_in, c_out, batch
ODD_SHAPES = {
    "same": ((6, 6), 3, 1, 3, 4, 2),
    "valid": ((7, 7), 5, 0, 2, 3, 2),
    "wide_padding": ((5, 5), 3, 2, 2, 2, 3),
    "one_channel_one_image": ((4, 4), 5, 2, 1, 1, 1),
    "not_square": ((4, 9), 3, 1, 2, 3, 2),
    "smaller_than_filter": ((1, 2), 5, 2, 3, 2, 2),
    "uneven_padding": ((5, 6), 3, ((0, 2), (3, 1)), 2, 2, 2),
    "padding_wider_than_filter": ((3, 2), 3, ((5, 0), (1, 4)), 1, 2, 2),
    "filter_of_one": ((3, 5), 1, 0, 4, 2, 2),
    "long_row": ((3, 17), 5, 2, 1, 2, 1),
}


def make(size, k, padding, c_in, c_out, batch, *, layout="HWCN", dtype=np.float32, seed=0):
    """x, w and dy of these sizes."""
    rng = np.random.default_rng(seed)
    rows, columns = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    out = [length + sum(pads) - k + 1 for length, pads in zip(size, (rows, columns), strict=True)]
    x = rng.standard_normal((batch, *size, c_in))
    w = rng.standard_normal((k, k, c_in, c_out)) / np.sqrt(k * k * c_in)
    dy = rng.standard_normal((batch, *out, c_out))
    return tuple(a.astype(dtype) for a in (_to(layout, x), w, _to(layout, dy)))


def _to(layout, images):
    return np.einsum(f"nhwc->{layout.lower()}", images)


def by_definition(x, w, dy, padding):
    """y, dx and dw in float64 as a sum over taps, layout HWCN."""
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    rows, columns = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    padded = np.pad(x, (rows, columns, (0, 0), (0, 0)))
    y, d_padded, dw = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(w)
    for s, t in np.ndindex(w.shape[:2]):
        window = np.s_[s : s + dy.shape[0], t : t + dy.shape[1]]
        y += np.matmul(w[s, t].T, padded[window])
        d_padded[window] += np.matmul(w[s, t], dy)
        dw[s, t] = np.matmul(padded[window], dy.swapaxes(2, 3)).sum((0, 1))
    dx = d_padded[rows[0] : rows[0] + x.shape[0], columns[0] : columns[0] + x.shape[1]]
    return y, dx, dw


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
    """The gradient where each maximum was, 0 elsewhere."""
    dy = np.zeros_like(y)
    for i, j in np.ndindex(d_pooled.shape[:2]):
        window = y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        dy[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = (window == window.max((0, 1))) * d_pooled[i, j]
    return dy


def assert_close(actual, expected, tolerance):
    """Every error at most `tolerance` of the largest value."""
    for name, a, b in zip(("y", "dx", "dw"), actual, expected, strict=False):
        error = np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b))
        assert error <= tolerance, f"{name}: {error:.1e} of the largest value"


class Contract:
    """What every implementation must do; a subclass names it, and what it refuses."""

    implementation: str
    refuses: tuple[str, ...] = ()

    def run(self, x, w, dy, **arguments):
        return jax.jit(functools.partial(y_dx_dw, implementation=self.implementation, **arguments))(x, w, dy)

    @pytest.mark.parametrize("case", ODD_SHAPES)
    def test_values_and_gradients(self, case):
        shape = ODD_SHAPES[case]
        x, w, dy = make(*shape)
        actual = self.run(x, w, dy, padding=shape[2], layout="HWCN")
        assert_close(actual, by_definition(x, w, dy, shape[2]), 2e-6)
        assert [a.dtype for a in actual] == [np.float32] * 3

    @pytest.mark.parametrize("case", ["not_square", "uneven_padding"])
    def test_float64(self, case):
        shape = ODD_SHAPES[case]
        x, w, dy = make(*shape, dtype=np.float64)
        with jax.enable_x64(True):
            actual = self.run(x, w, dy, padding=shape[2], layout="HWCN")
            assert_close(actual, by_definition(x, w, dy, shape[2]), 1e-14)

    @pytest.mark.parametrize("case", [case for case in ODD_SHAPES if case != "smaller_than_filter"])
    def test_pool(self, case):
        """Of float64, so that no two values which the definition tells apart are told apart otherwise."""
        *shape, batch = ODD_SHAPES[case]
        x, w, dy = make(*shape, batch, dtype=np.float64)
        y, _, _ = by_definition(x, w, dy, shape[2])
        largest, d_pooled = pooled(y)
        with jax.enable_x64(True):
            actual = self.run(x, w, d_pooled, padding=shape[2], layout="HWCN", pool=True)
        expected = by_definition(x, w, unpooled(y, d_pooled), shape[2])
        assert_close(actual, (largest, *expected[1:]), 1e-13)

    def test_bfloat16(self):
        x, w, dy = (jnp.asarray(a, jnp.bfloat16) for a in make(*ODD_SHAPES["same"]))
        if "bfloat16" in self.refuses:
            with pytest.raises(NotImplementedError, match="bfloat16"):
                self.run(x, w, dy, padding=1, layout="HWCN")
        else:
            actual = self.run(x, w, dy, padding=1, layout="HWCN")
            assert actual[0].dtype == jnp.bfloat16
            assert_close(actual, by_definition(x, w, dy, 1), 2**-7)

    def test_layouts_agree(self):
        shape = ODD_SHAPES["not_square"]
        y, dx, dw = self.run(*make(*shape, layout="HWCN"), padding=1, layout="HWCN")
        y_n, dx_n, dw_n = self.run(*make(*shape, layout="NHWC"), padding=1, layout="NHWC")
        for images, images_n in ((y, y_n), (dx, dx_n)):
            np.testing.assert_allclose(images.transpose(3, 0, 1, 2), images_n, rtol=0, atol=1e-5)
        np.testing.assert_allclose(dw, dw_n, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("named", "pads"), [("SAME", 1), ("VALID", 0)])
    def test_named_padding(self, named, pads):
        x, w, _ = make((6, 5), 3, pads, 2, 3, 2)
        convolve = functools.partial(conv2d, x, w, layout="HWCN", implementation=self.implementation)
        np.testing.assert_array_equal(convolve(padding=named), convolve(padding=pads))

    @pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 3)], ids=str)
    def test_vmap(self, axes):
        *arrays, dy = make(*ODD_SHAPES["same"])
        factors = (1, 2, -1)

        def stacked(a, axis):
            return a if axis is None else np.stack([factor * a for factor in factors], axis)

        def times(a, axis, factor):
            return a if axis is None else factor * a

        run = functools.partial(self.run, dy=dy, padding=1, layout="HWCN")
        actual = jax.vmap(run, axes)(*map(stacked, arrays, axes))
        for i, factor in enumerate(factors):
            expected = by_definition(*(times(a, axis, factor) for a, axis in zip(arrays, axes, strict=True)), dy, 1)
            assert_close([of_all[i] for of_all in actual], expected, 2e-6)

    @pytest.mark.parametrize("check_vma", [True, False])
    def test_gradients_under_shard_map(self, check_vma):
        x, w, dy = make((5, 5), 3, 1, 2, 3, 4)
        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        images = P(None, None, None, "data")

        def shard(x, w, dy):
            y, dx, dw = self.run(x, w, dy, padding=1, layout="HWCN")
            return y, dx, dw if check_vma else jax.lax.psum(dw, "data")

        sharded = jax.shard_map(
            shard, mesh=mesh, in_specs=(images, P(), images), out_specs=(images, images, P()), check_vma=check_vma
        )
        assert_close(jax.jit(sharded)(x, w, dy), by_definition(x, w, dy, 1), 2e-6)

    @pytest.mark.parametrize("what", ["stride", "even_filter", "oblong_filter", "negative_padding"])
    def test_serves_or_refuses_what_is_rare(self, what):
        x, w, _ = make((6, 6), 3, 1, 2, 3, 2)
        w = {"even_filter": w[:2, :2], "oblong_filter": w[:1]}.get(what, w)
        arguments = {
            "stride": 2 if what == "stride" else 1,
            "padding": ((-1, 1), (1, 1)) if what == "negative_padding" else 1,
            "layout": "HWCN",
        }
        convolve = functools.partial(conv2d, x, w, **arguments)
        if what in self.refuses:
            with pytest.raises(NotImplementedError):
                convolve(implementation=self.implementation)
        else:
            expected = convolve(implementation="reference")
            np.testing.assert_allclose(convolve(implementation=self.implementation), expected, rtol=0, atol=1e-5)


class TestReference(Contract):
    implementation = "reference"


class TestXla(Contract):
    implementation = "xla"


class MatrixProducts(Contract):
    refuses = ("stride", "even_filter", "oblong_filter", "negative_padding", "bfloat16")

    def test_input_gradient_costs_nothing_unless_used(self):
        x, w, dy = make((6, 6), 5, 2, 4, 8, 16)

        def operations(wanted):
            run = jax.jit(lambda *a: self.run(*a, padding=2, layout="HWCN")[wanted])
            return run.lower(x, w, dy).compile().cost_analysis()["flops"]

        assert operations(np.s_[2:]) < 0.8 * operations(np.s_[1:])


class TestToeplitz(MatrixProducts):
    implementation = "toeplitz"

    def test_refuses_many_channels(self):
        x, w, _ = make((6, 6), 3, 1, 5, 3, 2)
        with pytest.raises(NotImplementedError, match="input channels"):
            conv2d(x, w, padding=1, layout="HWCN", implementation="toeplitz")


class TestSquares(MatrixProducts):
    implementation = "squares"

    def test_refuses_many_channels(self):
        x, w, _ = make((6, 6), 3, 1, 5, 3, 2)
        with pytest.raises(NotImplementedError, match="input channels"):
            conv2d(x, w, padding=1, layout="HWCN", implementation="squares")


class TestTiled(MatrixProducts):
    implementation = "tiled"

    @pytest.fixture(autouse=True)
    def small_tiles(self, monkeypatch):
        monkeypatch.setattr(choice, "TILE", 4)

    def test_smaller_tiles_where_there_are_many_points(self, monkeypatch):
        """Half the side: rows of them that are more, and as right."""
        x, w, dy = make((11, 13), 3, 1, 2, 3, 4)
        before = str(jax.make_jaxpr(functools.partial(self.run, padding=1, layout="HWCN"))(x, w, dy))
        monkeypatch.setattr(choice, "_MANY_POINTS", 0)
        monkeypatch.setattr(choice, "TILE", 8)
        assert str(jax.make_jaxpr(functools.partial(self.run, padding=1, layout="HWCN"))(x, w, dy)) == before
        assert_close(self.run(x, w, dy, padding=1, layout="HWCN"), by_definition(x, w, dy, 1), 2e-6)


class TestDft(MatrixProducts):
    implementation = "dft"


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "separable"])
@pytest.mark.parametrize("gauss", [True, False], ids=["gauss", "pairs"])
@pytest.mark.parametrize("case", ODD_SHAPES)
def test_every_form_of_the_dft(monkeypatch, dense, gauss, case):
    """Whichever form its size would choose, and with products in either order."""
    monkeypatch.setattr(choice, "dft_plan", lambda size, c_in, c_out: Plan(dense, gauss))
    monkeypatch.setattr(choice, "is_plain", lambda channels: dense)
    shape = ODD_SHAPES[case]
    x, w, dy = make(*shape)
    actual = jax.jit(functools.partial(y_dx_dw, padding=shape[2], layout="HWCN", implementation="dft"))(x, w, dy)
    assert_close(actual, by_definition(x, w, dy, shape[2]), 2e-6)


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


@pytest.mark.parametrize("layer", ARCLOSS_LAYERS, ids=str)
def test_accuracy_of_arcloss_layers(layer):
    """At most 2e-5 of the largest value in float32; measured: 1e-6 to 6e-6, growing with channels and pixels."""
    size, k, padding, c_in, c_out = layer
    x, w, dy = make((size, size), k, padding, c_in, c_out, 4)
    implementation = "toeplitz" if c_in == 1 else "dft"  # as chosen for a batch of 256
    convolve = jax.jit(functools.partial(y_dx_dw, padding=padding, layout="HWCN", implementation=implementation))
    assert_close(convolve(x, w, dy), by_definition(x, w, dy, padding), 2e-5)


def test_a_hand_computed_correlation():
    x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]).reshape(1, 3, 3, 1)
    w = jnp.zeros((3, 3, 1, 1)).at[0, 1].set(1.0).at[1, 2].set(10.0)  # the pixel above, and ten times the one right
    y = conv2d(x, w, padding=1, implementation="dft")
    expected = [[20.0, 30.0, 0.0], [51.0, 62.0, 3.0], [84.0, 95.0, 6.0]]
    np.testing.assert_allclose(y.reshape(3, 3), expected, atol=1e-4)


def test_checks():
    x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    for arguments, complaint in [
        ({"layout": "NCHW"}, "layouts"),
        ({"implementation": "fft"}, "no implementation 'fft'"),
        ({"w": jnp.ones((3, 3, 2, 4))}, "input channels"),
        ({"w": jnp.ones((3, 3, 4))}, "filters"),
        ({"w": jnp.ones((3, 3, 3, 4), jnp.bfloat16)}, "one dtype"),
        ({"w": jnp.ones((9, 9, 3, 4))}, "do not fit"),
        ({"stride": 0}, "stride"),
        ({"padding": (1, 1)}, r"a padding of one number, .* not \(1, 1\)"),
        ({"padding": "EVEN"}, "a padding of one number, .* not 'EVEN'"),
        *[
            ({"x": jnp.ones((2, 1, 50, 3)), "pool": True, "implementation": name}, r"a result of \(1, 50\) pixels")
            for name in (None, "tiled", "squares", "xla")
        ],
    ]:
        with pytest.raises(ValueError, match=complaint):
            conv2d(**{"x": x, "w": w, "padding": 1, **arguments})


@pytest.mark.parametrize(("size", "c_in"), [(50, 3), (50, 8), (2, 8), (8, 1)])
def test_of_no_images_there_are_no_results(size, c_in):
    x, w = jnp.ones((0, size, size, c_in)), jnp.ones((3, 3, c_in, 4))
    y, pull = jax.vjp(lambda x, w: conv2d(x, w, padding=np.int64(1)), x, w)
    dx, dw = pull(y)
    assert y.shape == (0, size, size, 4) and dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))


def test_choice(monkeypatch):
    def chosen(size, k, c_in, batch):
        return choice.preferences(jnp.zeros((size, size, c_in, batch)), jnp.zeros((k, k, c_in, 4)), layout="HWCN")[0]

    assert chosen(28, 5, 1, 16) == "toeplitz"
    assert chosen(28, 5, 2, 16) == "dft"
    assert chosen(28, 5, 2, 1) == "xla"
    assert chosen(2, 3, 2, 1) == "dft" and chosen(3, 3, 2, 1) == "xla"
    assert chosen(28, 1, 2, 16) == "xla"
    assert chosen(56, 5, 2, 1) == "squares"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(28, 5, 2, 16) == "xla"


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 1, 2, 3, 1), (8, 3, 1, 1, 3, 16), (8, 3, 1, 2, 3, 16), (41, 3, 1, 2, 3, 1), (41, 3, 1, 5, 3, 1)],
    ids=str,
)
def test_the_automatic_choice_is_right_too(shape):
    size, *rest = shape
    x, w, dy = make((size, size), *rest)
    assert_close(y_dx_dw(x, w, dy, padding=1, layout="HWCN"), by_definition(x, w, dy, 1), 2e-6)


def test_the_automatic_choice_falls_back():
    """A stride is nothing for the DFT that this size and batch would have."""
    x, w, _ = make((8, 8), 3, 1, 2, 3, 16)
    y = conv2d(x, w, stride=2, padding=1, layout="HWCN")
    np.testing.assert_allclose(y, conv2d(x, w, stride=2, padding=1, layout="HWCN", implementation="xla"))
