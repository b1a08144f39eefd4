"""What every implementation must make of all inputs there are: labels, dtypes, lengths, parts, and misfits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxnets.margins import ArcFace, NormFace
from kernels.margin_softmax import HardNegatives, margin_softmax, reference

RISING = ArcFace(0.5, beyond="rising")
EPS = float(np.finfo(np.float32).eps)


def problem(shape, seed=0):
    n, d, c = shape
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(n, d)) * 5, rng.normal(size=(c, d)) / 3
    return x.astype(np.float32), w.astype(np.float32), rng.integers(0, c, n).astype(np.int32)


def value_and_gradients(implementation, margin=RISING, scale=8.0, **options):
    """(x, w, labels) -> losses, dx, dw, of the sum of the losses that are numbers; jitted."""

    def total(x, w, labels):
        losses = margin_softmax(x, w, labels, margin=margin, scale=scale, implementation=implementation, **options)
        return jnp.where(jnp.isnan(losses), 0, losses).sum(), losses

    def all_of_it(x, w, labels):
        (_, losses), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(x, w, labels)
        return losses, *gradients

    return jax.jit(all_of_it)


def defined64(x, w, labels, margin=RISING, scale=8.0):
    """The same by the definition, in float64."""

    def total(x, w):
        losses = reference.margin_softmax(x, w, jnp.asarray(labels), margin=margin, scale=scale)
        return losses.sum(), losses

    with jax.enable_x64(True):
        arrays = (jnp.asarray(np.asarray(array, np.float64)) for array in (x, w))
        (_, losses), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(*arrays)
        return [np.asarray(array) for array in (losses, *gradients)]


def assert_close(got, want, implementation, scale=8.0, rounded=0.0):
    """Losses are off by a few ulp of s; gradients, of rows of length 1, relatively to the largest by as much."""
    off = 8 * scale * EPS + 1e-6 + (scale * 2**-15 if implementation == "pallas_gpu" else 0)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=off)
    for gradient, exact in zip(got[1:], want[1:], strict=True):
        atol = (4 * off + rounded) * np.abs(exact).max()
        np.testing.assert_allclose(np.asarray(gradient, np.float64), exact, rtol=0, atol=atol)


def test_rows_that_do_not_count_are_inert(implementation):
    """Padding holds anything: label −1 has no loss and no gradient. Other labels out of range give NaN, and no more."""
    x, w, labels = problem((7, 3, 5))
    labels[[1, 2, 4, 6]] = -1, -1, 5, -2
    x[[1, 2]] = [np.nan, 1, np.inf], [np.inf, -np.inf, 3e38]
    losses, dx, dw = value_and_gradients(implementation)(x, w, labels)
    rest = np.array([0, 3, 5])
    np.testing.assert_array_equal(losses[jnp.array([1, 2])], 0)
    np.testing.assert_array_equal(np.isnan(losses), [False] * 4 + [True, False, True])
    np.testing.assert_array_equal(np.delete(dx, rest, axis=0), 0)
    assert_close((losses[rest], dx[rest], dw), defined64(x[rest], w, labels[rest]), implementation)


def test_margins_and_hard_negatives_of_rows_that_do_not_count_are_inert(implementation):
    """A margin that depends on the row, as AdaFace's does, may be NaN where the row is."""
    x, w, labels = problem((4, 3, 5))
    labels[1], x[1] = -1, np.nan

    @jax.jit
    def gradients(x, w):
        def total(x, w):
            lengths = jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1))

            def margin(cos_theta, sin_theta):
                return cos_theta - lengths / 20 * sin_theta

            options = {"hard_negatives": HardNegatives(0.3, margin), "implementation": implementation}
            return margin_softmax(x, w, labels, margin=margin, scale=8.0, **options).sum()

        return jax.value_and_grad(total, (0, 1))(x, w)

    loss, (dx, dw) = gradients(x, w)
    without, (_, want) = gradients(np.nan_to_num(x), w)
    assert float(loss) == float(without) and (dx[1] == 0).all()
    np.testing.assert_array_equal(dw, want)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32", "int64"])
def test_labels_of_any_width(implementation, dtype):
    """No label becomes another one by being brought to 32 bits."""
    x, w, _ = problem((4, 3, 5))
    known = np.iinfo(dtype)
    outside = min(known.max, 2**32 + 1) if known.bits == 64 else known.max
    labels = np.array([2, outside, 4, max(known.min, -1)], dtype)
    losses = partial(margin_softmax, x, w, margin=NormFace(), scale=5.0, implementation=implementation)
    as_usual = jnp.array([2, 5, 4, -1 if known.min else 0])
    np.testing.assert_allclose(jax.jit(lambda: losses(labels))(), jax.jit(losses)(as_usual), rtol=1e-6)


def test_lists_are_taken(implementation):
    losses = partial(margin_softmax, margin=NormFace(), scale=1, implementation=implementation)
    got = jax.jit(lambda: losses([[3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [0]))()
    np.testing.assert_allclose(got, [np.log1p(np.exp(-1))], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_directions_of_all_lengths(implementation, dtype):
    """From the smallest subnormal number to the largest: the loss is that of the direction.

    So is the gradient times the length, where it is a number of the dtype. Class weights are of 1e-18 … 1e18.
    """
    if implementation == "pallas_gpu" and dtype == "float16":
        pytest.skip("it takes float32 and bfloat16")
    kind = jnp.finfo(dtype)
    smallest, largest = float(kind.smallest_subnormal), float(kind.max)
    x, w, labels = problem((8, 3, 5))
    signs = np.array([[1, 1, -1], [1, -1, 0], [0, 1, 0], [-1, -1, -1]] * 2, np.float64)
    lengths = [smallest, 3 * smallest, float(kind.tiny), 4 * float(kind.tiny), 1, largest / 2**20, largest, largest]
    x = signs * np.array(lengths)[:, None]
    w *= 1 if dtype == "float16" else np.float32([1e-17, 1e-6, 1, 1e6, 1e17])[:, None]
    x, w = (np.asarray(array).astype(kind.dtype) for array in (x, w))
    losses, dx, dw = value_and_gradients(implementation)(x, w, labels)
    want = defined64(signs, w, labels)
    off = 8 * 8 * EPS + 1e-6 + (8 * 2**-15 if implementation == "pallas_gpu" and dtype == "float32" else 0)
    # XLA:CPU before JAX 0.11 takes float32's subnormal numbers, which bfloat16 has too, for 0.
    known = np.s_[2:] if dtype != "float16" and jax.__version_info__ < (0, 11) else np.s_[:]
    np.testing.assert_allclose(losses[known], want[0][known], atol=off, rtol=1e-5)
    rounding = {"float32": 4 * off, "bfloat16": 2**-6, "float16": 2**-9}[dtype]
    scaled = np.asarray(dx, np.float64) * np.array(lengths)[:, None]
    fits = np.s_[4:6] if dtype == "float16" else np.s_[3:6]  # rows whose gradient, of the order of 1/length, does
    np.testing.assert_allclose(scaled[fits], want[1][fits], rtol=0, atol=rounding * np.abs(want[1]).max())
    assert not np.isnan(dx).any()
    if dtype != "float16":
        by_length = np.linalg.norm(np.asarray(w, np.float64), axis=1, keepdims=True)
        got, exact = np.asarray(dw, np.float64) * by_length, want[2] * by_length
        if known == np.s_[:]:  # else two rows pass no gradient to the class weights
            np.testing.assert_allclose(got, exact, rtol=0, atol=rounding * np.abs(exact).max())


def test_class_weights_of_other_lengths_are_served_or_seen(implementation):
    """The definition serves all lengths; where their squares do not fit in float32, others give NaN."""
    (x, w, _), labels = problem((3, 3, 5)), np.arange(3, dtype=np.int32)
    losses = value_and_gradients(implementation)
    for length in (1e-45, 1e-39, 2e-38, 1e-30, 7e-19, 1.1e18, 1e30, 3e38):
        extreme = w.copy()
        extreme[3] = np.float32([length, 0, -length])
        as_usual = w.copy()
        as_usual[3] = 1, 0, -1
        got, want = losses(x, extreme, labels)[0], defined64(x, as_usual, labels)[0]
        if implementation == "reference":
            # XLA:CPU before JAX 0.11 takes subnormal numbers for 0.
            if length > 1e-38 or jax.__version_info__ >= (0, 11):
                np.testing.assert_allclose(got, want, rtol=1e-5)
        else:
            assert np.isnan(got).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_class_weights_of_the_shortest_and_longest_lengths(implementation, dtype):
    """The squares of their elements, 512 of them, are subnormal numbers, though the length is not too short."""
    x, w, labels = problem((3, 512, 5))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    total = value_and_gradients(implementation)
    for length in (1.02e-18, 2e-18, 1e-17, 1e-13, 0.98e18):
        lengths = np.array([1, length, length, 1, length])[:, None]  # of two targets and another one
        given = jnp.asarray((w * lengths).astype(np.float32), dtype)
        losses, dx, dw = total(x, given, labels)
        want = defined64(x, np.asarray(given, np.float64), labels)
        rounded = {"float32": 0, "bfloat16": 3 * 2**-8}[dtype]
        got = losses, dx, np.asarray(dw, np.float64) * lengths
        assert_close(got, (*want[:2], want[2] * lengths), implementation, rounded=rounded)


def test_vectors_without_direction(implementation):
    """θ is π/2 then: cos θ = 0, sin θ = 1. At ArcFace(0.5) and s = 64 the loss of two such classes is 31.78…

    log(1 + exp(0 − 64·cos(π/2 + 0.5))) = 30.68… for one other class, and more by log 3 for three.
    """
    x, w, _ = problem((4, 3, 4))
    x[0], w[2] = 0, 0
    x[1], labels = 0, np.array([0, 2, 2, 1], np.int32)
    margin = ArcFace(0.5)
    losses, dx, dw = value_and_gradients(implementation, margin, scale=64.0)(x, w, labels)
    wanted = 64 * np.sin(0.5) + np.log(3)
    assert abs(wanted - 31.78) < 0.01
    np.testing.assert_allclose(losses[:2], wanted, rtol=1e-6)
    # Of the third row the target has no direction: its ψ is constant, and the others' gradients are by hand.
    unit = x[2].astype(np.float64) / np.linalg.norm(x[2])
    others = np.delete(w.astype(np.float64), 2, axis=0)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    logits = np.append(64 * others @ unit, -64 * np.sin(0.5))
    shares = np.exp(logits - logits.max())
    loss, shares = np.log(shares.sum()) + logits.max() + 64 * np.sin(0.5), shares / shares.sum()
    parts = 64 * 2**-15 if implementation == "pallas_gpu" else 0
    np.testing.assert_allclose(losses[2], loss, rtol=1e-5, atol=parts)
    gradient = 64 * shares[:3] @ others
    gradient = (gradient - gradient @ unit * unit) / np.linalg.norm(x[2])
    np.testing.assert_allclose(dx[2], gradient, rtol=0, atol=(1e-4 + parts) * np.abs(gradient).max())
    np.testing.assert_array_equal(dx[:2], 0)
    np.testing.assert_array_equal(dw[2], 0)
    assert np.isfinite(dw).all()


def test_of_one_class_there_is_nothing_to_learn(implementation):
    x, w, labels = problem((3, 4, 1))
    for array in value_and_gradients(implementation)(x, w, labels):
        np.testing.assert_array_equal(array, np.zeros_like(array))


def test_nan_is_not_hidden(implementation):
    """A network that has diverged must be seen to have."""
    x, w, labels = problem((4, 4, 5))
    x[1], x[3, 0] = np.nan, np.inf
    losses = value_and_gradients(implementation)(x, w, labels)[0]
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False, True])


def test_healthy_input_passes_under_debug_nans(implementation):
    x, w, labels = problem((4, 3, 5))
    labels[1], x[2], w[3] = -1, 0, 0

    def total(x, w):
        return margin_softmax(x, w, labels, margin=RISING, scale=8.0, implementation=implementation).sum()

    with jax.debug_nans(True):
        assert np.isfinite(total(x, w))
        assert all(np.isfinite(array).all() for array in jax.jit(jax.grad(total, (0, 1)))(x, w))
        labels[1] = 7
        with pytest.raises(FloatingPointError):
            jax.block_until_ready(total(x, w))


@pytest.mark.parametrize("how", ["vmap", "pmap", "shard_map", "shard_map without check_vma"])
def test_rows_in_parts(implementation, how):
    """Each part has its losses and the gradient of its rows; the gradient of the weights is the sum over all."""
    x, w, labels = problem((12, 8, 5))

    def total(x, w, labels):
        return margin_softmax(x, w, labels, margin=RISING, scale=8.0, implementation=implementation).sum()

    value_and_grad = jax.value_and_grad(total, (0, 1))
    # Over two devices the GPU's interpreter says "Barrier remains allocated"; for two it is lowered, see
    # test_pallas_gpu.py, and compiled, see aot.py.
    parts = 1 if implementation == "pallas_gpu" and how != "vmap" else 4
    if how in ("vmap", "pmap"):
        mapped = {"vmap": jax.vmap, "pmap": jax.pmap}[how](value_and_grad, in_axes=(0, None, 0))
        mapped = jax.jit(mapped) if how == "vmap" else mapped
        losses, (dx, dw) = jax.device_get(mapped(x.reshape(parts, -1, 8), w, labels.reshape(parts, -1)))
        loss, dx, dw = losses.sum(), dx.reshape(12, 8), dw.sum(axis=0)
    else:
        mesh = Mesh(jax.devices()[:parts], ("rows",))
        rows, everywhere = PartitionSpec("rows"), PartitionSpec()

        def shard(x, w, labels):
            loss, (dx, dw) = value_and_grad(x, w, labels)
            dw = dw if how == "shard_map" else jax.lax.psum(dw, "rows")  # checked, JAX itself sums what is shared
            return jax.lax.psum(loss, "rows"), (dx, dw)

        specs = {"in_specs": (rows, everywhere, rows), "out_specs": (everywhere, (rows, everywhere))}
        sharded = jax.shard_map(shard, mesh=mesh, check_vma=how == "shard_map", **specs)
        loss, (dx, dw) = jax.jit(sharded)(x, w, labels)
    losses, *gradients = defined64(x, w, labels)
    assert_close((loss / 12, dx, dw), (losses.mean(), *gradients), implementation)


@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")])
def test_narrow_inputs_are_widened_first(implementation, dtypes):
    """Neither the wider one nor anything between is rounded to the narrower.

    The gradient of many rows a class is not rounded row by row: in bfloat16 a sum stagnates once it is 2⁸ times what is
    added.
    """
    x, w, labels = problem((2048, 8, 4))
    x, w = (jnp.asarray(array, dtype) for array, dtype in zip((x, w), dtypes, strict=True))
    got = value_and_gradients(implementation)(x, w, labels)
    assert got[0].dtype == jnp.float32 and [gradient.dtype for gradient in got[1:]] == list(dtypes)
    # A gradient's parts, of the target and of the others, are rounded, and so is their sum.
    assert_close(got, defined64(x, w, labels), implementation, rounded=3 * 2**-8)


def test_products_are_of_the_highest_precision(implementation):
    """Elsewhere than on a CPU, float32 would by default be multiplied with fewer bits."""
    if implementation == "pallas_gpu":
        pytest.skip("its products are of bfloat16, in parts")
    lowered = value_and_gradients(implementation).lower(*problem((4, 3, 5))).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)
