"""The loss whose classes are split over eight virtual devices, against its definition on one, in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import Mesh

from jaxnets import margin_softmax_loss, sharded_margin_softmax_loss
from jaxnets.margins import (
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    NormFace,
    SphereFace,
    Tutorial,
    sharded_update,
)
from kernels.margin_softmax import sharded
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.pallas_tpu import PallasTpu

# Sizes of "data" and "class"; over which of them rows, losses and classes are split.
LAYOUTS = {
    "classes": ((1, 8), P("class"), P(), "class"),
    "data and classes": ((2, 4), P(("data", "class")), P("data"), "class"),
    "rows over data alone": ((2, 4), P("data"), P("data"), "class"),
    "classes over both": ((2, 4), P(("data", "class")), P(), ("data", "class")),
    "classes over both, rows over data": ((4, 2), P("data"), P(), ("data", "class")),
}
BOTH = "data and classes"
AT = {"AdaFace": {"mean": 4.0, "std": 1.0}, "CurricularFace": {"t": 0.3125}}  # statistics, exact in float32

ALL = [NormFace(), CosFace(), ArcFace(0.5, "smooth"), SphereFace(), Combined(1.1, 0.3, 0.2), Tutorial()]
CASES = [
    *[(margin, 0, {}) for margin in (ArcFace(), AdaFace(), CurricularFace())],
    (CurricularFace(), 3, {}),
    (ArcFace(0.5, "rising"), 0, {"margin_grad": "straight_through", "min_norm": 5.0}),
    *[pytest.param(margin, 0, {}, marks=pytest.mark.slow) for margin in ALL],
]


def quick(*values):
    """Those that the quick tests take of a product; the slow ones take the others."""
    return lambda *of: pytest.param(*of, marks=() if of in values else pytest.mark.slow)


def mesh_of(layout):
    return Mesh(np.array(jax.devices()).reshape(LAYOUTS[layout][0]), ("data", "class"))


def problem(num_classes, num_centers=0, n=16, d=6, dtype=np.float32):
    """Embeddings, class weights, labels, one of them −1, and what each loss counts."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(num_classes, num_centers, d) if num_centers else (num_classes, d))
    labels = rng.integers(0, num_classes, n).astype(np.int32)
    labels[3], labels[4] = -1, num_classes - 1
    return 2 * rng.normal(size=(n, d)).astype(dtype), w.astype(dtype), labels, rng.normal(size=n).astype(dtype)


def statistics_of(margin, dtype=jnp.float32):
    return {name: jnp.asarray(value, dtype) for name, value in AT.get(type(margin).__name__, {}).items()}


def over_devices(layout, margin, **options):
    """(x, w, labels, g) -> losses, and the gradients of Σ g·loss."""
    _, rows, out, axis_name = LAYOUTS[layout]
    classes = P(axis_name)

    def losses(x, w, labels):
        statistics = statistics_of(margin)
        return sharded_margin_softmax_loss(
            x, w, labels, axis_name=axis_name, margin=margin, statistics=statistics, **options
        )

    mapped = jax.shard_map(losses, mesh=mesh_of(layout), in_specs=(rows, classes, rows), out_specs=out)
    return _with_gradients(mapped)


def defined(x, w, labels, g, margin, **options):
    """The same on one device, in float64, of the very numbers that the devices were given."""

    def losses(x, w, labels):
        at = margin.at(statistics_of(margin, x.dtype), x) if hasattr(margin, "at") else margin
        return margin_softmax_loss(x, w, labels, margin=at, implementation="reference", **options)

    with jax.enable_x64(True):
        arrays = (jnp.asarray(np.asarray(array, np.float64)) for array in (x, w))
        return _numpy(_with_gradients(losses)(*arrays, labels, np.asarray(g, np.float64)))


def _with_gradients(losses_of):
    def total(x, w, labels, g):
        losses = losses_of(x, w, labels)
        return (losses * g).sum(), losses

    def run(*arguments):
        (_, losses), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(*arguments)
        return losses, *gradients

    return jax.jit(run)


def _numpy(arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def assert_close(got, want, scale, d, dtype=np.float32):
    """A loss is off by `scale` times a cosine's few ulp; so are, relatively, the gradients."""
    epsilon = np.finfo(dtype).eps
    of_loss = 4 * scale * epsilon * math.sqrt(d)
    got = _numpy(got)
    np.testing.assert_allclose(got[0], want[0], rtol=8 * epsilon, atol=of_loss)
    for a, b in zip(got[1:], want[1:], strict=True):
        assert np.linalg.norm(a - b) <= of_loss * np.linalg.norm(b)


@pytest.mark.parametrize(("margin", "num_centers", "options"), CASES, ids=str)
def test_values_and_gradients(margin, num_centers, options):
    arrays = problem(40, num_centers)
    got = over_devices(BOTH, margin, scale=16.0, **options)(*arrays)
    assert got[0][3] == 0 and (got[1][3] == 0).all()
    assert_close(got, defined(*arrays, margin, scale=16.0, **options), 16.0, 6)


@pytest.mark.parametrize(
    ("layout", "margin"),
    [
        quick(*((layout, ArcFace()) for layout in LAYOUTS), ("classes over both", CurricularFace()))(layout, margin)
        for layout in LAYOUTS
        for margin in (ArcFace(), CurricularFace())
    ],
    ids=str,
)
def test_layouts_and_classes_that_do_not_divide(layout, margin):
    """19 of 24 classes count: the last device has none of them. The gradient of the others is 0."""
    x, w, labels, g = problem(19)
    padded = np.concatenate([w, np.ones((5, 6), np.float32)])
    losses, dx, dw = over_devices(layout, margin, scale=16.0, num_classes=19)(x, padded, labels, g)
    np.testing.assert_array_equal(dw[19:], 0)
    assert_close((losses, dx, dw[:19]), defined(x, w, labels, g, margin, scale=16.0), 16.0, 6)


@pytest.mark.parametrize("layout", list(map(quick((BOTH,), ("classes over both",)), LAYOUTS)))
def test_float64(layout):
    """Whose rounding hides nothing."""
    arrays = problem(40, 2, dtype=np.float64)
    with jax.enable_x64(True):
        got = _numpy(over_devices(layout, CurricularFace(), scale=16.0)(*arrays))
    assert_close(got, defined(*arrays, CurricularFace(), scale=16.0), 16.0, 6, np.float64)


@pytest.mark.parametrize("scale", list(map(quick((200.0,)), [64.0, 200.0])))
@pytest.mark.parametrize("margin", [CosFace(), CurricularFace()], ids=repr)
def test_sums_of_any_size_meet(margin, scale):
    """A device's cosines are alike, about −1 on one, 1 on the next: its sum is e^−s, or e^s, or e^2s of hard ones."""
    signs = np.repeat([-1, 1, -1, 1, 0.5, -0.5, 0.0, -1], 5)
    w = np.stack([signs, np.sqrt(1 - signs**2)], axis=1).astype(np.float32)
    x = np.where(np.arange(16) % 4 < 2, 3, -3)[:, None] * np.array([[1, 0.25]])
    arrays = x.astype(np.float32), w, np.arange(16, dtype=np.int32), np.ones(16, np.float32)
    got = over_devices("classes", margin, scale=scale)(*arrays)
    assert_close(got, defined(*arrays, margin, scale=scale), scale, 2)


def test_bfloat16():
    """Four roundings to 2⁻⁹ at most: of x̂ or of a device's share, of the others' part, of the target's, of their sum.

    Each is of something no longer than all parts of a gradient are together: s·g_i·|p_ij − 1{j = y_i}|, over ‖x_i‖ or
    ‖w_j‖.
    """
    x, w, _, g = problem(40)
    x, w = jnp.asarray(x, jnp.bfloat16), jnp.asarray(w, jnp.bfloat16)
    labels = np.arange(16, dtype=np.int32)
    got = over_devices("classes", CosFace(), scale=16.0)(x, w, labels, g)
    assert [array.dtype for array in got] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    want = defined(x, w, labels, g, CosFace(), scale=16.0)
    assert_close(got[:1], want[:1], 16.0, 6)
    lengths = [np.linalg.norm(array, axis=1) for array in _numpy((x, w))]
    cosines = np.einsum("nd,cd->nc", *_numpy((x, w))) / np.multiply.outer(*lengths)
    is_target = np.eye(16, 40)
    exponentials = np.exp(16 * (cosines - 0.35 * is_target))
    parts = np.abs(16 * g[:, None] * (exponentials / exponentials.sum(axis=1, keepdims=True) - is_target))
    for gradient, exact, axis, length in zip(_numpy(got[1:]), want[1:], (1, 0), lengths, strict=True):
        off = np.linalg.norm(gradient - exact, axis=1)
        assert (off <= 4 * 2**-9 * parts.sum(axis=axis) / length).all()


@pytest.mark.parametrize("name", ["chunked", "pallas_tpu"])
@pytest.mark.parametrize("margin", [ArcFace(), CurricularFace()], ids=repr)
def test_every_implementation_sums_the_shares(monkeypatch, name, margin):
    """In several chunks; and interpreted."""
    from jax.experimental.pallas import tpu as pltpu

    small = {"chunked": Chunked(size=128), "pallas_tpu": PallasTpu(128, 128, interpret=pltpu.InterpretParams())}
    monkeypatch.setitem(sharded._STREAMS, name, lambda: small[name])
    arrays = problem(4 * 300)
    got = over_devices(BOTH, margin, scale=16.0, implementation=name)(*arrays)
    assert_close(got, defined(*arrays, margin, scale=16.0), 16.0, 6)


def test_a_step_that_takes_its_gradients_inside():
    """As an engineer would write it: class weights that "data" shares have their gradient summed over it."""
    x, w, labels, _ = problem(40)

    def step(x, w, labels):
        def mean_loss(x, w):
            losses = sharded_margin_softmax_loss(x, w, labels, axis_name="class", margin=ArcFace(), scale=16.0)
            return jax.lax.pmean(losses.mean(), "data")

        return jax.value_and_grad(mean_loss, (0, 1))(x, w)

    rows = P(("data", "class"))
    mapped = jax.shard_map(
        step, mesh=mesh_of(BOTH), in_specs=(rows, P("class"), rows), out_specs=(P(), (rows, P("class")))
    )
    loss, gradients = jax.jit(mapped)(x, w, labels)
    want = defined(x, w, labels, np.full(16, 1 / 16), ArcFace(), scale=16.0)
    assert_close((loss, *gradients), (want[0].mean(), *want[1:]), 16.0, 6)


def test_labels_that_are_none():
    """Labels out of range give NaN, wherever they would be, and spoil no other row's gradient."""
    x, w, labels, g = problem(40)
    labels[[0, 5]], g[[0, 5]] = [40, -2], 0
    losses, dx, dw = over_devices(BOTH, CosFace(), scale=16.0)(x, w, labels, g)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(losses)), [0, 5])
    ignored = np.where(np.isnan(losses), -1, labels)
    want = defined(x, w, ignored, g, CosFace(), scale=16.0)
    assert_close((np.nan_to_num(losses), dx, dw), want, 16.0, 6)


@pytest.mark.parametrize("margin", [AdaFace(), CurricularFace()], ids=repr)
@pytest.mark.parametrize("layout", list(map(quick((BOTH,), ("classes over both",)), LAYOUTS)))
def test_statistics_are_of_the_whole_batch(layout, margin):
    x, w, labels, _ = problem(19, 2)
    padded = np.concatenate([w, np.ones((5, 2, 6), np.float32)])
    _, rows, _, axis_name = LAYOUTS[layout]

    def update(x, w, labels):
        return sharded_update(margin, statistics_of(margin), x, w, labels, axis_name, num_classes=19)

    mapped = jax.shard_map(update, mesh=mesh_of(layout), in_specs=(rows, P(axis_name), rows), out_specs=P())
    got, before = jax.jit(mapped)(x, padded, labels), statistics_of(margin)
    for name, value in margin.update(before, x, w, labels).items():
        assert value != before[name]
        np.testing.assert_allclose(got[name], value, rtol=1e-6)


def test_a_sample_is_the_loss_over_fewer_classes():
    """Which ones, the gradient tells: all of the rows' own and three fifths of the others, the same in all layouts.

    Of 290 classes the last of eight devices has ten of forty, and the last of four fifty of eighty.
    """
    x, w, labels, g = problem(290)
    padded = np.concatenate([w, np.ones((30, 6), np.float32)])
    g, kept = np.abs(g), []
    for layout in ("classes", "rows over data alone"):
        run = over_devices(layout, ArcFace(), scale=4.0, num_classes=290, sample=0.6, key=jax.random.key(0))
        losses, dx, dw = run(x, padded, labels, g)
        found = np.flatnonzero(np.abs(dw).max(axis=1))
        assert set(labels) - {-1} <= set(found) and found.max() < 290
        among = np.where(labels < 0, -1, np.searchsorted(found, labels)).astype(np.int32)
        want = defined(x, w[found], among, g, ArcFace(), scale=4.0)
        assert_close((losses, dx, np.asarray(dw)[found]), want, 4.0, 6)
        kept.append(found.tolist())
    assert kept[0] == kept[1]
    assert abs(len(kept[0]) - 0.6 * 290) < 5 * math.sqrt(0.24 * 290)
