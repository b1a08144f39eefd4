"""MagFace, ElasticFace, AdaCos's adapting scale, SphereFace2 and UniFace, against their papers' formulas in float64.

Gradients are central differences of these formulas.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import (
    AdaCos,
    BinaryHead,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    MarginHead,
    SphereFace2,
    Split,
    UniFace,
    binary_margin_loss,
    create,
    create_train_state,
    margin_softmax_loss,
    sgd,
    sharded_margin_softmax_loss,
    train_step,
)

N, C, D = 8, 10, 4
LABELS = np.array([0, 3, 9, 3, -1, 7, 1, 5], np.int32)
COUNTED = LABELS != -1
P = jax.P
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def problem():
    """Lengths from 3 to 150, on both sides of MagFace's 10 and 110."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D))
    x *= (np.array([3, 20, 40, 60, 50, 80, 100, 150]) / np.linalg.norm(x, axis=1))[:, None]
    return x, rng.normal(size=(C, D))


def cosines(x, w):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T


def softmax_loss(x, w, psi, scale):
    """−log of the target's probability, by its definition; `psi` is the targets' [N]."""
    logits = scale * cosines(x, w)
    rows = np.arange(N)
    logits[rows, LABELS] = scale * psi
    return np.where(COUNTED, np.log(np.exp(logits).sum(axis=1)) - logits[rows, LABELS], 0)


def differences(total, *arrays, step=1e-5):
    """∂total/∂array of each, by central differences."""
    found = []
    for place, array in enumerate(arrays):
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[place][index] += sign * step
                ends.append(total(*moved))
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
        found.append(gradient)
    return found


def check(got, formula, *arrays):
    """Losses and the gradients of their weighted sum; in float32, of values of about 1 to 30."""
    losses, gradients = got
    want = formula(*arrays)
    np.testing.assert_allclose(losses, want, rtol=2e-5, atol=1e-5)
    for ours, theirs in zip(gradients, differences(lambda *a: (formula(*a) * WEIGHTS).sum(), *arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


WEIGHTS = np.linspace(0.5, 1.5, N)


def with_gradients(losses_of, over=(0, 1)):
    def total(*arguments):
        losses = losses_of(*arguments)
        return (losses * WEIGHTS.astype(np.float32)).sum(), losses

    def run(*arguments):
        gradients, losses = jax.grad(total, over, has_aux=True)(*arguments)
        return losses, gradients

    return quick(run)


def magface(x, w):
    a = np.clip(np.linalg.norm(x, axis=1), 10, 110)
    m = 0.45 + (0.8 - 0.45) * (a - 10) / (110 - 10)
    cos_theta = cosines(x, w)[np.arange(N), LABELS]
    theta = np.arccos(cos_theta)
    psi = np.where(theta < np.pi - m, np.cos(theta + m), cos_theta - m * np.sin(m))
    return softmax_loss(x, w, psi, 16.0) + np.where(COUNTED, 35 * (1 / a + a / 110**2), 0)


def test_magface_is_its_papers_loss_on_one_device_and_on_two():
    """On two with a sample of the classes, of which the share is 1."""
    x, w = problem()
    head = MarginHead(C, MagFace(), 16.0)
    given = x.astype(np.float32), w.astype(np.float32)
    given[0][LABELS == -1] = np.nan  # a row without a class may hold anything
    losses_of = lambda x, w: head.loss({}, {"class_weights": w}, x, LABELS)  # noqa: E731
    check(with_gradients(losses_of)(*given), magface, x, w)

    mesh = jax.make_mesh((2,), ("class",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        lambda x, w, labels: sharded_margin_softmax_loss(
            x,
            w,
            labels,
            axis_name="class",
            margin=MagFace(),
            statistics={},
            scale=16.0,
            sample=1.0,
            key=jax.random.key(0),
        ),
        mesh=mesh,
        in_specs=(P("class"), P("class"), P("class")),
        out_specs=P(),
    )
    check(with_gradients(lambda x, w: split(x, w, jnp.asarray(LABELS)))(*given), magface, x, w)


def test_elastic_margins_are_normal_by_their_key():
    keys = jax.random.split(jax.random.key(0))
    for margin, mean in ((ElasticArcFace(0.5, 0.02), 0.5), (ElasticCosFace(0.35, 0.02), 0.35)):
        one, same, other = (np.asarray(margin.drawn(key, 4000).m) for key in (keys[0], keys[0], keys[1]))
        np.testing.assert_array_equal(one, same)
        assert (one != other).all()
        # Four standard errors of a mean and of a deviation.
        assert abs(one.mean() - mean) < 4 * 0.02 / math.sqrt(4000)
        assert abs(one.std() / 0.02 - 1) < 4 / math.sqrt(8000)
    assert float(ElasticArcFace(0.1, 1.0).drawn(keys[0], 100).m.min()) >= 0
    with pytest.raises(ValueError, match=r"draws its margins: give its \.drawn\(key, num_rows\)"):
        ElasticArcFace()(jnp.ones(2), jnp.zeros(2))


@pytest.mark.parametrize("margin", [ElasticArcFace(0.5, 0.1), ElasticCosFace(0.35, 0.1)], ids=repr)
def test_elastic_losses_have_a_margin_for_each_row(margin):
    x, w = problem()
    drawn = margin.drawn(jax.random.key(1), N)
    m = np.asarray(drawn.m, np.float64)

    def formula(x, w):
        cos_theta = cosines(x, w)[np.arange(N), LABELS]
        theta = np.arccos(cos_theta)
        past = cos_theta - m * np.sin(m)
        arc = np.where(theta < np.pi - m, np.cos(theta + m), past)
        return softmax_loss(x, w, arc if isinstance(margin, ElasticArcFace) else cos_theta - m, 8.0)

    ours = with_gradients(lambda x, w: margin_softmax_loss(x, w, LABELS, margin=drawn, scale=8.0))
    check(ours(x.astype(np.float32), w.astype(np.float32)), formula, x, w)


def adacos(x, w, scale):
    rows = np.flatnonzero(COUNTED)
    found = cosines(x, w)[rows]
    own = found[np.arange(len(rows)), LABELS[rows]]
    others = np.exp(scale * found).sum(axis=1) - np.exp(scale * own)
    return np.log(others.mean()) / np.cos(min(np.pi / 4, np.median(np.arccos(own))))


def test_adacos_scale_follows_equation_15():
    """Two batches: angles of a beginning, whose median exceeds π/4, and of trained embeddings; over two devices too."""
    x, w = problem()
    near = np.where(COUNTED[:, None], 3 * w[LABELS] / np.linalg.norm(w[LABELS], axis=1, keepdims=True), 1) + 0.01 * x
    made = AdaCos(C)
    statistics = made.init()
    want = math.sqrt(2) * math.log(C - 1)
    np.testing.assert_allclose(statistics["scale"], want, rtol=1e-6)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shared = jax.shard_map(
        lambda stats, x, w, labels: made.update(stats, x, w, labels, "data"),
        mesh=mesh,
        in_specs=(P(), P("data"), P(), P("data")),
        out_specs=P(),
    )
    update, over_devices = quick(made.update), quick(shared)
    for batch in (x, near):
        arguments = batch.astype(np.float32), w.astype(np.float32), jnp.asarray(LABELS)
        everywhere = over_devices(statistics, *arguments)
        statistics, want = update(statistics, *arguments), adacos(batch, w, want)
        np.testing.assert_allclose(statistics["scale"], want, rtol=1e-5)
        np.testing.assert_allclose(everywhere["scale"], want, rtol=1e-5)
    np.testing.assert_array_equal(update(statistics, *arguments[:2], jnp.full(N, -1))["scale"], statistics["scale"])
    assert np.isnan(update(statistics, *arguments[:2], jnp.full(N, C))["scale"])
    through = quick(jax.grad(lambda w: made.update(statistics, arguments[0], w, LABELS)["scale"]))(arguments[1])
    np.testing.assert_array_equal(through, 0)
    with pytest.raises(ValueError, match="three classes or more"):
        AdaCos(2)


def spread(z, t):
    return 2 * ((z + 1) / 2) ** t - 1


def sphereface2(x, w, b):
    found, terms = cosines(x, w), np.zeros(N)
    for i in np.flatnonzero(COUNTED):
        for j in range(C):
            g = spread(found[i, j], 3)
            if j == LABELS[i]:
                terms[i] += 0.7 / 20 * np.log1p(np.exp(-20 * (g - 0.4) - b[()]))
            else:
                terms[i] += 0.3 / 20 * np.log1p(np.exp(20 * (g + 0.4) + b[()]))
    return terms


def uniface(x, w, b):
    found, terms = cosines(x, w), np.zeros(N)
    for i in np.flatnonzero(COUNTED):
        for j in range(C):
            if j == LABELS[i]:
                terms[i] += np.log1p(np.exp(-16 * (found[i, j] - 0.4) + b[()]))
            else:
                terms[i] += 0.7 * np.log1p(np.exp(16 * found[i, j] - b[()]))
    return terms


BINARY = {"sphereface2": (SphereFace2(scale=20.0), sphereface2), "uniface": (UniFace(0.4, 16.0, 0.7), uniface)}


@pytest.mark.parametrize("name", BINARY)
def test_binary_losses_are_their_papers_in_chunks_and_over_devices(name):
    """Chunks of 4 of 10 classes; and two devices with 6 of 12 class weights each, two of which are padding."""
    form, formula = BINARY[name]
    x, w = problem()
    b = np.array(-3.0)
    given = x.astype(np.float32), w.astype(np.float32), np.float32(b)
    given[0][LABELS == -1] = np.nan
    one = with_gradients(lambda x, w, b: binary_margin_loss(x, w, LABELS, bias=b, form=form, chunk=4), over=(0, 1, 2))
    check(one(*given), formula, x, w, b)

    mesh = jax.make_mesh((2,), ("class",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        lambda x, w, labels, b: binary_margin_loss(
            x, w, labels, bias=b, form=form, axis_name="class", num_classes=C, chunk=4
        ),
        mesh=mesh,
        in_specs=(P("class"), P("class"), P("class"), P()),
        out_specs=P(),
    )
    over = with_gradients(
        lambda x, w, b: split(x, jnp.pad(w, ((0, 2), (0, 0)), constant_values=1), jnp.asarray(LABELS), b),
        over=(0, 1, 2),
    )
    check(over(*given), formula, x, w, b)


def test_binary_losses_hold_no_array_of_rows_by_classes():
    rows, classes = 64, 4096

    def total(x, w):
        return binary_margin_loss(x, w, jnp.zeros(rows, jnp.int32), bias=0.0, form=UniFace(), chunk=256).sum()

    shapes = jax.ShapeDtypeStruct((rows, 8), jnp.float32), jax.ShapeDtypeStruct((classes, 8), jnp.float32)
    text = str(jax.make_jaxpr(jax.grad(total, (0, 1)))(*shapes))
    assert f"[{rows},256]" in text and f"[{rows},{classes}]" not in text


@pytest.mark.parametrize("num_classes", [2, 10, 100_000])
def test_sphereface2_starts_where_its_bias_has_no_slope(num_classes):
    """While all cosines are 0: λ·σ(−p − b) = (1 − λ)·(C − 1)·σ(n + b)."""
    form = SphereFace2(scale=20.0)
    b, middle = form.initial_bias(num_classes), spread(0.0, 3)
    positive = 0.7 / (1 + math.exp(20 * (middle - 0.4) + b))
    negative = 0.3 * (num_classes - 1) / (1 + math.exp(-20 * (middle + 0.4) - b))
    assert positive == pytest.approx(negative, rel=1e-9)


def test_sphereface2_straight_through_and_its_head():
    """The same loss, with dg/dz taken as 1: with t = 1, where it is 1, the same gradient too."""
    x, w = (array.astype(np.float32) for array in problem())
    heads = [
        BinaryHead(C, SphereFace2(t=t, margin_grad=how)) for t in (1.0, 3.0) for how in ("exact", "straight_through")
    ]
    params = {"class_weights": jnp.asarray(w), "bias": heads[2].init(jax.random.key(0), D)["bias"]}
    assert heads[2].init(jax.random.key(0), D)["class_weights"].shape == (C, D)
    found = [
        quick(jax.value_and_grad(lambda x, head=head: head.loss({}, params, x, LABELS).sum()))(x) for head in heads
    ]
    for exact, straight in (found[:2], found[2:]):
        np.testing.assert_allclose(exact[0], straight[0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    assert np.abs(found[2][1] - found[3][1]).max() > 1e-3 * np.abs(found[2][1]).max()
    nearest = heads[0].predict(params, jnp.asarray(x))
    np.testing.assert_array_equal(nearest, cosines(x, w).argmax(axis=1))


def test_a_state_trains_with_a_binary_head():
    images, labels = jax.ShapeDtypeStruct((4, 28, 28, 1), np.uint8), jax.ShapeDtypeStruct((4,), np.int32)

    def trained(images, labels):
        head = BinaryHead(C, UniFace())
        optimizers = {"net_optimizer": sgd(0.1), "head_optimizer": sgd(0.1)}
        state = create_train_state(jax.random.key(0), create("v0"), head, images, **optimizers)
        return train_step(state, Split(images, labels))

    state, metrics = jax.eval_shape(trained, images, labels)
    assert {name: leaf.shape for name, leaf in state.params["head"].items()} == {"class_weights": (C, 2), "bias": ()}
    assert metrics["loss"].shape == ()


def test_numbers_outside_their_domain_are_refused(unenforced):
    for make, message in (
        (lambda: MagFace(u_m=45), r"MagFace's u_m must be in \[0, π/2\] radians, not 45; 45 degrees"),
        (lambda: ElasticArcFace(std=-1), r"ElasticArcFace's std must be in \[0, ∞\)"),
        (lambda: SphereFace2(balance=1.0), r"SphereFace2's balance must be in \(0, 1\), not 1.0"),
        (lambda: SphereFace2(margin_grad="none"), "margin_grad is exact or straight_through, not 'none'"),
        (lambda: UniFace(scale=0), r"UniFace's scale must be in \(0, ∞\), not 0"),
        (lambda: BinaryHead(1, UniFace()), "num_classes must be an integer of 2 or more, not 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
