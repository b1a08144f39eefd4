"""conv2d by hand, its checks, and the choice of an implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.conv2d import choice, conv2d, tiled
from kernels.conv2d.transforms import Form


def test_a_hand_computed_correlation():
    x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]).reshape(1, 3, 3, 1)
    w = jnp.zeros((3, 3, 1, 1)).at[0, 1].set(1.0).at[1, 2].set(10.0)  # the pixel above, and ten times the one right
    y = conv2d(x, w, padding=1, implementation="dft")
    expected = [[20.0, 30.0, 0.0], [51.0, 62.0, 3.0], [84.0, 95.0, 6.0]]
    np.testing.assert_allclose(y.reshape(3, 3), expected, atol=1e-4)


def test_checks(unenforced):
    x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
    for arguments, complaint in [
        ({"layout": "NCHW"}, "layouts NHWC, HWCN, not 'NCHW'"),
        ({"implementation": "fft"}, "no implementation 'fft'; there is reference"),
        ({"w": jnp.ones((3, 3, 2, 4))}, "input channels"),
        ({"w": jnp.ones((3, 3, 4))}, "filters"),
        ({"x": x[0]}, r"not x \(5, 5, 3\)"),
        ({"w": jnp.ones((3, 3, 3, 4), jnp.bfloat16)}, "one dtype"),
        ({"w": jnp.ones((8, 3, 3, 4))}, r"filters \(8, 3\) do not fit in images \(5, 5\) padded by 1"),
        ({"w": jnp.ones((3, 8, 3, 4))}, "do not fit"),
        ({"stride": 0}, "stride of 1 or more .* not 0 and 1"),
        ({"padding": -1}, "no negative padding, not 1 and -1"),
        *[
            ({"x": jnp.ones((2, 1, 50, 3)), "pool": True, "implementation": name}, r"a result of \(1, 50\) pixels")
            for name in (None, "tiled", "squares", "xla")
        ],
    ]:
        with pytest.raises(ValueError, match=complaint):
            conv2d(**{"x": x, "w": w, "padding": 1, **arguments})
    smallest = jax.eval_shape(lambda: conv2d(x, jnp.ones((7, 7, 3, 4)), padding=1))
    smallest_pooled = jax.eval_shape(lambda: conv2d(x, w, stride=2, padding=0, pool=True))
    assert smallest.shape == smallest_pooled.shape == (2, 1, 1, 4)


@pytest.mark.parametrize(("size", "c_in"), [(50, 3), (8, 1)])
def test_no_images_have_no_results(size, c_in):
    x, w = jnp.ones((0, size, size, c_in)), jnp.ones((3, 3, c_in, 4))
    y, pull = jax.vjp(lambda x, w: conv2d(x, w, padding=1), x, w)
    dx, dw = pull(y)
    assert y.shape == (0, size, size, 4) and dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))


def test_choice(monkeypatch):
    def chosen(size, k, c_in, batch):
        size = size if isinstance(size, tuple) else (size, size)
        return choice.preferences(jnp.zeros((*size, c_in, batch)), jnp.zeros((k, k, c_in, 4)), layout="HWCN")

    assert chosen(28, 5, 1, 16) == ("toeplitz", "xla")
    assert chosen(28, 5, 2, 16) == chosen(40, 5, 2, 16) == ("dft", "xla")
    assert chosen(28, 5, 2, 15) == ("xla",)
    assert chosen((2, 9), 3, 2, 1) == ("dft", "xla") and chosen(3, 3, 2, 1) == ("xla",)
    assert chosen(28, 1, 2, 16) == ("xla",)
    assert chosen((41, 8), 5, 2, 1) == ("squares", "tiled", "xla")
    assert choice.dft_form((9, 9), 64, 64) == Form(dense=True, gauss=True)
    assert choice.dft_form((9, 10), 64, 63) == Form(dense=False, gauss=False)
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
    assert choice.is_plain(256) and not choice.is_plain(255)
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    assert choice.is_plain(1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(28, 5, 2, 16) == ("xla",)


def test_smaller_tiles_where_there_are_many_points(monkeypatch):
    """Half the side, where a row of tiles has more points than the limit."""
    points = (8 + 3 - 1) ** 2 * 2 * 4 * 3  # of two tiles 8 wide, four images, three channels

    def limit(most):
        monkeypatch.setattr(choice, "_MANY_POINTS", most)
        return choice.tile_limit(13, 3, batch=4, channels=3)

    monkeypatch.setattr(choice, "TILE", 8)
    assert (limit(points), limit(points - 1)) == (8, 4)


def test_tiles_are_alike_and_no_smaller_than_a_border():
    sides = [tiled.side_of_a_tile(length, 28, 5, even=even) for length, even in ((57, False), (57, True), (2, False))]
    assert sides == [19, 20, 4]


def test_the_automatic_choice_falls_back():
    """The DFT that this size and batch would have does not serve a stride."""
    x, w = jnp.zeros((8, 8, 2, 16)), jnp.zeros((3, 3, 2, 3))
    jaxpr = str(jax.make_jaxpr(lambda x, w: conv2d(x, w, stride=2, padding=1, layout="HWCN"))(x, w))
    assert choice.preferences(x, w, layout="HWCN")[0] == "dft" and jaxpr.count("conv_general_dilated[") == 1
