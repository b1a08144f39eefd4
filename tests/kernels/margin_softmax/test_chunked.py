"""Several chunks and a rest, which shapes of the contract are too small for, against the definition in float64."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.margins import ArcFace, NormFace
from kernels.margin_softmax import HardNegatives, choice, margin_softmax, reference, streamed
from kernels.margin_softmax.chunked import Chunked
from kernels.platform import portable

N, D = 6, 16
SMALLEST = Chunked(size=128)
EPS = float(np.finfo(np.float32).eps)


def problem(num_classes, num_centers=0):
    rng = np.random.default_rng(5)
    shape = (num_classes, num_centers, D) if num_centers else (num_classes, D)
    x, w = rng.normal(size=(N, D)) * 3, rng.normal(size=shape) / 2
    ends = [0, 127, 128, num_classes - 1]  # of chunks
    labels = np.array([label % num_classes for label in [*ends, -1 % num_classes, 5]], np.int32)
    return x.astype(np.float32), w.astype(np.float32), labels


def value_and_gradients(loss, x, w, labels):
    weights = jnp.linspace(0.5, -1, N, dtype=x.dtype)

    def total(x, w):
        losses = loss(x, w, jnp.asarray(labels))
        return (losses * weights).sum(), losses

    (_, losses), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, w)
    return [np.asarray(losses), *map(np.asarray, gradients)]


@pytest.mark.parametrize(
    ("num_classes", "scale", "num_centers", "t"),
    [
        *[(num_classes, 10.0, 0, 0.0) for num_classes in (128, 129)],
        *[(300, 64.0, 0, 0.4), (300, 100.0, 3, 0.0), (300, 100.0, 0, 0.4)],
        *[pytest.param(num_classes, 10.0, 0, 0.0, marks=pytest.mark.slow) for num_classes in (100, 256)],
        *[pytest.param(300, 64.0, num_centers, 0.0, marks=pytest.mark.slow) for num_centers in (0, 3)],
    ],
)
def test_chunks_add_up(num_classes, scale, num_centers, t):
    """At a scale of 100 the largest logit has to be known; below, float32 holds the sum as it is."""
    x, w, labels = problem(num_classes, num_centers)
    hard = HardNegatives(t, threshold=NormFace()) if t else None
    options = {"margin": ArcFace(0.3), "scale": scale, "hard_negatives": hard}
    got = value_and_gradients(partial(streamed.margin_softmax, SMALLEST, **options), x, w, labels)
    with jax.enable_x64(True):
        arrays = jnp.asarray(x, jnp.float64), jnp.asarray(w, jnp.float64), jnp.asarray(labels)
        want = value_and_gradients(partial(reference.margin_softmax, **options), *arrays)
    # A cosine is off by a few ulp a term of its sum, a logit by s times that, twice that beyond a threshold; so is,
    # relatively, each probability that a gradient is a sum of.
    off = 4 * (2 if t else 1) * scale * EPS * math.sqrt(D)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6, atol=off + 1e-6)
    for gradient, exact in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=(off + 1e-6) * np.abs(exact).max())


def test_neither_cosines_nor_copies_of_weights_are_many_in_a_chunk():
    assert choice.chunk_size(1024, (10**6, 1, 512)) == 1024  # 2²⁰ cosines
    assert choice.chunk_size(1, (10**6, 1, 512)) == choice.chunk_size(128, (10**6, 1, 512)) == 2048  # 2²⁰ of weights
    assert choice.chunk_size(100, (10**6, 3, 64)) == 2**20 // 300 // 128 * 128
    assert choice.chunk_size(10**6, (10, 1, 2)) == 128


def test_float32_holds_the_sum_at_its_largest():
    """All classes alike, and at the other end: the largest scale that needs no shift, and those that do.

    e^88.7 is the largest number: a bound beyond that would give an infinite loss.
    """
    x, w = jnp.ones((2, D)), jnp.ones((1000, D))
    for exponent in (85 - 1e-3, 85 + 1e-3, 89, 94.5):
        scale = exponent - math.log(1000)
        loss = jax.jit(partial(streamed.margin_softmax, SMALLEST, margin=NormFace(), scale=scale))
        for sign in (1, -1):
            np.testing.assert_allclose(loss(x, sign * w, jnp.array([0, 999])), math.log(1000), rtol=1e-5)


def test_temporaries_are_a_few_chunks():
    """Of 100,000 classes of 512 numbers, class weights are 195 MiB, and so is anything computed for each number."""
    shapes = (jax.ShapeDtypeStruct((n, 512), jnp.float32) for n in (128, 100_000))
    labels = jax.ShapeDtypeStruct((128,), jnp.int32)

    def total(x, w, labels):
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=64.0, implementation="chunked").sum()

    memory = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*shapes, labels).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 24 * 2**20


def test_a_class_without_others_passes_no_gradient():
    x, w = jnp.arange(1.0, 9.0).reshape(2, 4), jnp.ones((1, 4))

    def total(x, w):
        labels = jnp.array([0, 0])
        return margin_softmax(x, w, labels, margin=ArcFace(0.3), scale=5.0, implementation="chunked").sum()

    loss, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(x, w)
    assert loss == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("dtypes", "wanted"), [(("float32", "bfloat16"), {"f32"}), (("bfloat16",) * 2, {"bf16", "f32"})]
)
def test_other_platforms_multiply_in_what_both_have_in_common(dtypes, wanted):
    """A CPU widens all; elsewhere float32 must not be rounded to the bfloat16 that it is multiplied with.

    What belongs to a row's own class is float32 always.
    """
    x, w, labels = problem(300)
    x, w = (jnp.asarray(array, dtype) for array, dtype in zip((x, w), dtypes, strict=True))

    def total(x, w):
        return streamed.margin_softmax(SMALLEST, x, w, jnp.asarray(labels), margin=NormFace(), scale=8.0).sum()

    with portable():
        program = jax.jit(jax.grad(total, (0, 1))).lower(x, w).as_text()
    operands = re.findall(r"dot_general.* : \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)", program)
    assert operands and {name for pair in operands for name in pair} == wanted
