"""What devices that share the classes say to each other, keep and draw; their losses are in test_sharded_losses.py."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import Mesh

from kernels.margin_softmax import (
    HardNegatives,
    draw_classes,
    gather_rows,
    margin_softmax,
    negative_sampling,
    sharded_margin_softmax,
)
from kernels.margin_softmax.negative_sampling import Drawn, sampled

COLLECTIVES = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def _margin(cos_theta, sin_theta):
    """cos(θ + 0.5)."""
    return 0.8775825618903728 * cos_theta - 0.479425538604203 * sin_theta


def losses_over(shape, rows, classes, out, **options):
    """Of a mesh ("data", "class"): (x, w, labels) -> losses."""

    def losses(x, w, labels):
        x, labels = gather_rows(x, labels, classes)
        return sharded_margin_softmax(x, w, labels, axis_name=classes, **options)

    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "class"))
    return jax.shard_map(losses, mesh=mesh, in_specs=(rows, P(classes), rows), out_specs=out)


def lowered(losses, n, c, d, gradients):
    total = jax.value_and_grad(lambda x, w, labels: losses(x, w, labels).sum(), (0, 1))
    x, w = jax.ShapeDtypeStruct((n, d), jnp.bfloat16), jax.ShapeDtypeStruct((c, d), jnp.bfloat16)
    return jax.jit(total if gradients else losses).lower(x, w, jax.ShapeDtypeStruct((n,), jnp.int32))


def compiled(*arguments, **how):
    return lowered(*arguments, **how).compile()


BOTH = P(("data", "class"))
# Layouts, all-gathers (of embeddings and of labels), all-reduces and reduce-scatters of the losses, and with gradients.
# Reduced are the sums and targets together, in one; hard negatives' thresholds before; and backward the gradients of
# what is shared: of class weights along "data", and of rows that are not split along "class".
COUNTS = {
    "classes": (((1, 8), P("class"), "class", P()), False, (2, 1, 0), (2, 1, 1)),
    "classes, hard negatives": (((1, 8), P("class"), "class", P()), True, (2, 2, 0), (2, 2, 1)),
    "data and classes": (((2, 4), BOTH, "class", P("data")), False, (2, 1, 0), (2, 2, 1)),
    "classes over both": (((2, 4), BOTH, ("data", "class"), P()), False, (2, 1, 0), (2, 1, 1)),
    "rows over data alone": (((2, 4), P("data"), "class", P("data")), False, (0, 1, 0), (0, 3, 0)),
}


@pytest.mark.parametrize("gradients", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", COUNTS)
def test_collectives(name, gradients):
    layout, is_hard, *counts = COUNTS[name]
    hard = HardNegatives(0.25, threshold=_margin) if is_hard else None
    losses = losses_over(*layout, margin=_margin, scale=30.0, hard_negatives=hard)
    found = collections.Counter(COLLECTIVES.findall(compiled(losses, 16, 40, 6, gradients).as_text()))
    kinds = "all-gather", "all-reduce", "reduce-scatter"
    assert found == +collections.Counter(dict(zip(kinds, counts[gradients], strict=True)))


@pytest.mark.parametrize(("scale", "vectors"), [(64.0, 2), (200.0, 4)])
def test_one_all_reduce_of_few_vectors(scale, vectors):
    """The targets, and a sum for each interval of e^160 from e^−s to C·e^s: of s = 200 there are three."""
    losses = losses_over((1, 8), P("class"), "class", P(), margin=_margin, scale=scale)
    (shape,) = re.findall(r"= (\S+) all-reduce\(", compiled(losses, 16, 40, 6, gradients=True).as_text())
    assert shape.startswith(f"f32[{vectors},16]")


def test_no_device_holds_its_logits():
    """1024 × 32768 of them: 128 MiB in float32, and as much each time something is made of them."""
    losses = losses_over((1, 8), P("class"), "class", P(), margin=_margin, scale=64.0)
    program = compiled(losses, 1024, 2**18, 16, gradients=True)
    assert program.memory_analysis().temp_size_in_bytes < 2**26


@pytest.mark.parametrize("scale", [pytest.param(64.0, marks=pytest.mark.slow), 200.0])
def test_antiparallel(scale):
    """All classes behind all embeddings: without a margin the loss is ln C, made of sums of e^−s."""
    x, w = np.tile(np.float32([3, 4]), (16, 1)), np.tile(np.float32([-6, -8]), (40, 1))
    losses = losses_over((1, 8), P("class"), "class", P(), margin=lambda cos_theta, _: cos_theta, scale=scale)
    labels = np.arange(16, dtype=np.int32)
    rounding = scale * np.finfo(np.float32).eps
    np.testing.assert_allclose(jax.jit(losses)(x, w, labels), math.log(40), atol=4 * rounding * math.sqrt(2))
    gradients = jax.jit(jax.grad(lambda x, w: losses(x, w, labels).sum(), (0, 1)))(x, w)
    for gradient in gradients:  # whose parts, of length s/5 and s/10 each, are radial, and cancel out
        np.testing.assert_allclose(gradient, 0, atol=16 * rounding)


def test_what_does_not_count_is_inert_and_a_traced_scale_is_served():
    """Rows of label −1, padded classes and classes that are not drawn may hold anything; against one device."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 6)).astype(np.float32), rng.normal(size=(40, 6)).astype(np.float32)
    labels = rng.integers(0, 33, 16).astype(np.int32)
    labels[2], x[2], w[5] = -1, np.nan, 0
    w[33:] = np.float32(
        [[np.nan], [np.inf], [-np.inf], [3e38], [1e-44], [0], [1]]
    )  # 33 classes: of 8 devices one has 3 of 5, and the last none

    def gradients(losses):
        def total(x, w, scale):
            found = losses(x, w, scale)
            return (found * jnp.linspace(1, 2, 16, dtype=jnp.float32)).sum(), found

        (_, found), of = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(x, w, jnp.float32(64))
        return found, *of

    def over(x, w, scale, sample=None):
        def losses(x, w, labels, scale):
            x, labels = gather_rows(x, labels, "class")
            options = {"axis_name": "class", "num_classes": 33}
            drawn = None if sample is None else draw_classes(jax.random.key(0), sample, labels, w, **options)
            w = w if drawn is None else drawn.of(w)
            return sharded_margin_softmax(x, w, labels, margin=_margin, scale=scale, drawn=drawn, **options)

        mesh, specs = Mesh(np.array(jax.devices()), ("class",)), (P("class"), P("class"), P("class"), P())
        return jax.shard_map(losses, mesh=mesh, in_specs=specs, out_specs=P())(x, w, labels, scale)

    def on_one_device(x, w, scale):
        return margin_softmax(x, w[:33], labels, margin=_margin, scale=scale, implementation="reference")

    want = gradients(on_one_device)
    for got, exact in zip(gradients(over), want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-4 * np.abs(exact).max())
    drawn = gradients(functools.partial(over, sample=0.5))
    assert all(np.isfinite(array).all() for array in drawn) and (drawn[0] <= want[0] + 1e-4).all()
    np.testing.assert_array_equal(drawn[2][33:], 0)


def test_negatives_are_drawn_alike():
    """Of 12 classes, two are needed and two are padding; each of the other eight is in two fifths of the draws."""
    own, draws = jnp.array([5, -1, 2, 5], jnp.int32), 4000

    def draw(key):
        return sampled(key, 0.4, own, 12, jnp.int32(10), jnp.int32(0))

    rows, places = map(np.asarray, jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), draws)))
    assert rows.shape == places.shape == (draws, 12)
    counts = np.bincount(rows.ravel(), minlength=13)
    np.testing.assert_array_equal(counts[[5, 2, 10, 11]], [draws, draws, 0, 0])
    deviation = math.sqrt(draws * 0.4 * 0.6)
    assert np.abs(np.delete(counts, [5, 2, 10, 11, 12]) - draws * 0.4).max() < 5 * deviation
    for found, place in zip(rows, places, strict=True):
        kept = found[found < 12]
        assert (np.diff(kept) > 0).all() and (found[len(kept) :] == 12).all()
        np.testing.assert_array_equal(found[place[kept]], kept)


@pytest.mark.parametrize("sample", [0.01, 1e-9, 1.0])
def test_one_row_of_many_classes_keeps_its_own(sample):
    """And there is room for all that are drawn, and not for many more."""
    own = jnp.array([1999], jnp.int32)
    draw = jax.jit(jax.vmap(lambda key: sampled(key, sample, own, 2000, jnp.int32(2000), jnp.int32(0))))
    rows, places = map(np.asarray, draw(jax.random.split(jax.random.key(1), 50)))
    assert rows.shape == (50, {0.01: 67, 1e-9: 12, 1.0: 2000}[sample])
    counted = (rows < 2000).sum(axis=1)
    np.testing.assert_array_equal(places[:, 1999], counted - 1)
    np.testing.assert_array_equal(rows[np.arange(50), counted - 1], 1999)
    assert (counted == {1e-9: 1, 1.0: 2000}.get(sample, counted)).all() and (counted < 67).all() | (sample == 1)
    assert all(len(set(row[:count])) == count for row, count in zip(rows.tolist(), counted, strict=True))


def test_a_full_room_keeps_the_classes_of_the_rows(monkeypatch):
    """Where more are drawn than there is room for, which happens once in 1e12 draws: the last ones are left out."""
    monkeypatch.setattr(negative_sampling, "room", lambda *_: 5)
    drawn = sampled(jax.random.key(0), 1.0, jnp.array([9, 11, -1], jnp.int32), 12, jnp.int32(12), jnp.int32(0))
    assert drawn.rows.tolist() == [0, 1, 2, 9, 11] and drawn.place[jnp.array([9, 11])].tolist() == [3, 4]


def test_rows_of_drawn_classes_are_taken_and_put_back():
    drawn = Drawn(jnp.array([1, 3, 4, 4]), jnp.array([0, 0, 1, 1]))
    whole = jnp.arange(8.0).reshape(4, 2)
    part = drawn.of(whole)
    np.testing.assert_array_equal(part[:2], whole[jnp.array([1, 3])])
    np.testing.assert_array_equal(drawn.put(whole, -part), [[0, 1], [-2, -3], [4, 5], [-6, -7]])
    assert drawn.num_drawn == 2


def test_a_sample_depends_on_the_key_and_the_classes_alone():
    """Of 40 classes on one device, on two, and on three with padding."""
    kept = jax.jit(sampled, static_argnums=(1, 3))

    def drawn(key, devices):
        here, found = -(-40 // devices), set()
        for first in range(0, 40, here):
            counted = jnp.int32(min(here, 40 - first))
            of_device = kept(key, 0.5, jnp.array([-1], jnp.int32), here, counted, jnp.int32(first))
            found |= set((first + np.asarray(of_device.rows[: int(of_device.num_drawn)])).tolist())
        return found

    first, other = (jax.random.key(seed) for seed in (0, 1))
    assert drawn(first, 1) == drawn(first, 2) == drawn(first, 3) != drawn(other, 1)


def test_embeddings_travel_in_bfloat16_and_their_gradient_in_float32():
    """In StableHLO, as accelerators get it. (Compiled for a CPU, which has no bfloat16, both are float32.)"""
    losses = losses_over((1, 8), P("class"), "class", P(), margin=_margin, scale=30.0)
    text = lowered(losses, 16, 40, 6, gradients=True).as_text()
    gathered = re.findall(r'"stablehlo.all_gather".*?-> tensor<(\w+)>', text)
    scattered = re.findall(r'"stablehlo.reduce_scatter".*?-> tensor<(\w+)>', text, re.DOTALL)
    assert sorted(gathered) == ["16x6xbf16", "16xi32"] and scattered == ["2x6xf32"]
