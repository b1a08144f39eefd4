"""MagFace, ElasticFace and AdaCos's adapting scale, against their papers' formulas in float64.

Gradients are central differences of these formulas.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import (
    AdaCos,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    MarginHead,
    margin_softmax_loss,
    sharded_margin_softmax_loss,
)
from tests.jaxnets.formulas import COUNTED, LABELS, C, N, check, cosines, problem, quick, with_gradients

P = jax.P


def softmax_loss(x, w, psi, scale):
    """−log of the target's probability, by its definition; `psi` is the targets' [N]."""
    logits = scale * cosines(x, w)
    rows = np.arange(N)
    logits[rows, LABELS] = scale * psi
    return np.where(COUNTED, np.log(np.exp(logits).sum(axis=1)) - logits[rows, LABELS], 0)


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


def test_numbers_outside_their_domain_are_refused(unenforced):
    for make, message in (
        (lambda: MagFace(u_m=45), r"MagFace's u_m must be in \[0, π/2\] radians, not 45; 45 degrees"),
        (lambda: MagFace(l_a=200), r"MagFace's u_a must be above its l_a, 200, not 110.0"),
        (lambda: ElasticArcFace(std=-1), r"ElasticArcFace's std must be in \[0, ∞\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
