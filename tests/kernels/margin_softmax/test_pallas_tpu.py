"""The TPU's kernels, interpreted on the CPU and lowered for a TPU."""

import importlib.util
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec

from kernels.margin_softmax import HardNegatives, margin_softmax, pallas_tpu, reference, streamed
from kernels.margin_softmax.pallas_tpu import PallasTpu
from kernels.margin_softmax.tpu_plan import block, block_bytes
from kernels.varying import vary_alike

F32, BF16 = jnp.float32, jnp.bfloat16
RACES = pltpu.InterpretParams(detect_races=True)
SMALL = PallasTpu(rows=128, classes=128, interpret=True)

# N, C, D, K sub-centres (0: none), t of hard negatives (0: none), scale, dtypes, how
CASES = {
    "ragged": (130, 257, 100, 0, 0.0, 64.0, (F32, F32), RACES),  # the last block of rows has two, of classes one
    "hard, whole blocks": (5, 256, 64, 0, 0.4, 30.0, (BF16, BF16), True),
    "sub-centres, hard": (5, 300, 64, 3, 0.4, 30.0, (F32, F32), RACES),
    "smallest, a scale that overflows": (1, 2, 2, 0, 0.0, 200.0, (BF16, F32), True),
}


def _margin(cos_theta, sin_theta):
    """cos(θ + 0.5)."""
    return 0.8775825618903728 * cos_theta - 0.479425538604203 * sin_theta


def _gradients(loss, x, w, labels, g, **options):
    """Of Σ g_i·loss_i: the losses, and the gradients of x and of w."""

    def total(x, w):
        losses = loss(x, w, jnp.asarray(labels), margin=_margin, **options)
        return (losses * jnp.asarray(g, losses.dtype)).sum(), losses

    (_, losses), both = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, w)
    return [np.asarray(array, np.float64) for array in (losses, *both)]


def _defined(x, w, *args, **options):
    """In float64, of the very numbers that the kernels are given."""
    with jax.enable_x64(True):
        x, w = (jnp.asarray(np.asarray(array, np.float64)) for array in (x, w))
        return _gradients(reference.margin_softmax, x, w, *args, **options)


def _assert_close(got, want, scale, length, dtypes):
    """A loss is off by s times a cosine's few ulp. So are, relatively, the products' gradients; in bfloat16 these are
    rounded to 2⁻⁹, number by number, and a gradient at the end once more.
    """
    of_loss = 4 * scale * np.finfo(np.float32).eps * np.sqrt(length) + 1e-6
    assert np.abs(got[0] - want[0]).max() <= of_loss
    for a, b, dtype in zip(got[1:], want[1:], dtypes, strict=True):
        rounding = 2**-9 * (dtypes == (BF16, BF16)) + 2**-9 * (dtype == BF16)
        assert np.linalg.norm(a - b) <= (rounding + of_loss) * np.linalg.norm(b)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreted_against_the_definition_in_float64(case):
    n, c, d, k, t, scale, dtypes, interpret = CASES[case]
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(n, d)), rng.normal(size=(c, k, d) if k else (c, d))
    x, w = (jnp.asarray(v, dtype) for v, dtype in zip((x, w), dtypes, strict=True))
    labels = rng.integers(0, c, n).astype(np.int32)
    labels[-1] = c - 1
    problem = x, w, labels, rng.normal(size=n)
    options = {"scale": scale, "hard_negatives": HardNegatives(t, threshold=_margin) if t else None}
    tpu = PallasTpu(rows=128, classes=128, interpret=interpret)
    got = _gradients(partial(streamed.margin_softmax, tpu), *problem, **options)
    _assert_close(got, _defined(*problem, **options), scale, d, dtypes)


def test_parallel_antiparallel_and_zero_vectors():
    """Of others than the row's own class; lengths are of all sizes."""
    w = np.random.default_rng(1).normal(size=(6, 5))
    w[4] = 0
    w = jnp.asarray(w, BF16)
    x = jnp.stack([w[1] * jnp.asarray(64, BF16), -w[2], jnp.zeros_like(w[0]), w[3] * jnp.asarray(2**-20, BF16)])
    labels, g = np.array([0, 0, 1, 5], np.int32), np.ones(4)
    got = _gradients(partial(streamed.margin_softmax, SMALL), x, w, labels, g, scale=64.0)
    want = _defined(x, w, labels, g, scale=64.0)
    np.testing.assert_allclose(got[0], want[0], atol=4 * 64 * np.finfo(np.float32).eps * np.sqrt(5) + 1e-6, rtol=1e-6)
    for a, b in zip(got[1:], want[1:], strict=True):  # row by row: shorter vectors have larger gradients
        lengths = np.linalg.norm(b, axis=1)
        assert (np.linalg.norm(a - b, axis=1) <= 2**-8 * lengths + 1e-5).all()
    np.testing.assert_array_equal(got[1][2], 0)
    np.testing.assert_array_equal(got[2][4], 0)


def test_equal_logits_and_labels_of_no_class():
    """All classes alike: the loss is ln C. A label of −1 gives 0, and no gradient."""
    x, w, labels = jnp.ones((3, 3)), jnp.ones((1000, 3)), jnp.array([0, 999, -1])

    def total(x, w):
        streams = partial(streamed.margin_softmax, PallasTpu(interpret=True))
        losses = streams(x, w, labels, margin=lambda cos_theta, _: cos_theta, scale=64.0)
        return jnp.where(labels == -1, 0, losses).sum(), losses

    (_, losses), (dx, dw) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, w)
    np.testing.assert_allclose(losses[:2], np.log(1000), rtol=1e-5)
    np.testing.assert_array_equal(dx[2], 0)
    assert np.isfinite(dx).all() and np.isfinite(dw).all()


def test_of_equally_near_centres_the_first_has_the_gradient():
    x = jnp.array([[1.0, 0.0]])
    w = jnp.array([[[-1.0, 0.0], [8.0, 6.0], [8.0, 6.0]], [[0.6, 0.8], [-0.6, 0.8], [0.6, 0.8]]])
    gradient = _gradients(partial(streamed.margin_softmax, SMALL), x, w, np.array([0], np.int32), [1.0], scale=3.0)[2]
    np.testing.assert_array_equal(np.abs(gradient).max(axis=2) > 0, [[False, True, False], [True, False, False]])


def test_vmap():
    """Rows in parts, whose sums are the whole's."""
    rng = np.random.default_rng(2)
    x, w = (jnp.asarray(rng.normal(size=shape), F32) for shape in ((8, 6), (5, 6)))
    labels = jnp.asarray(rng.integers(0, 5, 8), jnp.int32)
    losses, dx, dw = _defined(x, w, labels, np.ones(8), scale=8.0)
    value_and_grad = jax.value_and_grad(lambda x, w, labels: _losses(SMALL, x, w, labels).sum(), (0, 1))
    parts = jax.jit(jax.vmap(value_and_grad, (0, None, 0)))(x.reshape(4, 2, 6), w, labels.reshape(4, 2))
    np.testing.assert_allclose(parts[0].sum(), losses.sum(), rtol=1e-5)
    np.testing.assert_allclose(parts[1][0].reshape(8, 6), dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts[1][1].sum(axis=0), dw, rtol=1e-4, atol=1e-5)


def _losses(streams, x, w, labels):
    return streamed.margin_softmax(streams, x, w, labels, margin=_margin, scale=8.0)


@pytest.mark.parametrize(("classes", "dtype"), [((100_000,), BF16), ((1000,), F32), ((3000, 3), BF16)], ids=str)
def test_it_lowers_for_a_tpu(classes, dtype):
    """Pallas checks shapes, layouts and operations; what VMEM holds only the TPU's compiler knows, see aot.py."""
    shapes = jax.ShapeDtypeStruct((4096, 512), dtype), jax.ShapeDtypeStruct((*classes, 512), dtype)
    labels = jax.ShapeDtypeStruct((4096,), jnp.int32)

    def total(x, w, labels):
        return _losses(PallasTpu(), x, w, labels).sum()

    traced = jax.jit(jax.value_and_grad(total, (0, 1))).trace(*shapes, labels)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") >= 3


def test_it_lowers_for_tpus_within_shard_map():
    rows = PartitionSpec("rows")
    mesh = Mesh(jax.devices()[:4], ("rows",))

    def shard(x, w, labels):
        x, w = vary_alike(x, w)
        return jax.lax.psum(_losses(PallasTpu(), x, w, labels).sum(), "rows")

    total = jax.shard_map(shard, mesh=mesh, in_specs=(rows, PartitionSpec(), rows), out_specs=PartitionSpec())
    arrays = jax.ShapeDtypeStruct((512, 64), BF16), jax.ShapeDtypeStruct((1000, 64), BF16)
    labels = jax.ShapeDtypeStruct((512,), jnp.int32)
    traced = jax.jit(jax.value_and_grad(total, (0, 1))).trace(*arrays, labels)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") >= 3


@pytest.mark.parametrize("length", [2, 128, 512, 2048, 4096])
@pytest.mark.parametrize("num_centers", [1, 3])
def test_blocks_fit(num_centers, length):
    for dtype in (F32, BF16):
        x, w = jnp.zeros((1, length), dtype), jax.ShapeDtypeStruct((10**6, num_centers, length), dtype)
        tpu = PallasTpu()
        rows, classes = block(tpu.rows, tpu.classes, tpu.vmem, x, w)
        assert min(rows, classes) >= 128 and rows % 128 == classes % 128 == 0
        assert block_bytes(rows, classes, x, w) <= tpu.vmem


def test_rows_are_split_into_blocks_of_nearly_equal_size():
    """Of 1,300 rows 512 fit: three blocks, of 433.3 rows and so of 448, a multiple of 16."""
    x, w = jnp.zeros((1300, 64)), jnp.zeros((5, 1, 64))
    assert PallasTpu()._kernels(x, w, streamed.Rows(jnp.zeros(1300, jnp.int32), None)).rows == 448


def test_it_is_refused_by_name_where_there_is_no_tpu():
    x, w = jnp.ones((2, 4)), jnp.ones((3, 4))
    with pytest.raises(NotImplementedError, match=r"pallas_tpu runs on TPUs alone"):
        margin_softmax(x, w, jnp.array([0, 1]), margin=_margin, scale=1.0, implementation="pallas_tpu")


def test_what_it_cannot_serve_is_refused(monkeypatch):
    def serve(dtype, length=8, num_centers=1):
        x, w = jnp.ones((2, length), dtype), jnp.ones((3, num_centers, length), dtype)
        return _losses(SMALL, x, w, jnp.array([0, 1]))

    with pytest.raises(NotImplementedError, match="takes float32 and bfloat16, not float16"):
        serve(jnp.float16)
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="takes float32 and bfloat16, not float64"):
        serve(jnp.float64)
    with pytest.raises(NotImplementedError, match=r"blocks of \[10, 4096\] a class are too large for VMEM"):
        serve(F32, 4096, 10)
    monkeypatch.setattr(pallas_tpu, "NEEDED", ("NotYet",))
    with pytest.raises(NotImplementedError, match=r"does not know JAX .*: it has no pltpu.NotYet"):
        serve(F32)


def test_compiling_ahead_says_what_it_lacks():
    if importlib.util.find_spec("libtpu"):
        pytest.skip("it lacks nothing, and takes minutes")
    command = [sys.executable, "-m", "kernels.margin_softmax.aot", "--platform", "tpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith("kernels.margin_softmax.aot cannot compile for a TPU: ")
