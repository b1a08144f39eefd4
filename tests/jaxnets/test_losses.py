import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ArcFace, CosFace, MarginHead, ScoresHead, Tutorial, adacos_scale, margin_softmax_loss
from jaxnets.losses import cosines
from jaxnets.margins import AdaFace, CurricularFace
from jaxnets.subcenters import dominant_centers


def test_tutorial_is_the_loss_that_its_write_ups_compute():
    """θ = acos(x̂·ŵ / 10) for every class, logits s·cos θ, and s·cos(θ + m) for the target."""
    rng = np.random.default_rng(0)
    x, w, labels = rng.normal(size=(6, 2)), rng.normal(size=(10, 2)), rng.integers(0, 10, 6)
    theta = np.arccos((x / np.linalg.norm(x, axis=1)[:, None]) @ (w / np.linalg.norm(w, axis=1)[:, None]).T / 10)
    theta[np.arange(6), labels] += 0.5
    logits = 10 * np.cos(theta)
    want = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]
    got = margin_softmax_loss(
        x.astype(np.float32), w.astype(np.float32), labels.astype(np.int32), margin=Tutorial(0.5), scale=10.0
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_function_serves_as_margin():
    x, w = jnp.eye(2), jnp.eye(2)
    labels = jnp.array([0, 1])
    got = margin_softmax_loss(x, w, labels, margin=lambda cos_theta, sin_theta: cos_theta - 0.25, scale=2.0)
    np.testing.assert_allclose(got, math.log1p(math.exp(-1.5)), rtol=1e-6)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        x, w = jnp.ones((2, 3), jnp.float64), jnp.eye(3, dtype=jnp.float64)
        loss = jax.jit(lambda x, w: margin_softmax_loss(x, w, [0, 1], margin=ArcFace(0.1), scale=3.0))(x, w)
        c = 1 / math.sqrt(3)
        psi = c * math.cos(0.1) - math.sqrt(1 - c * c) * math.sin(0.1)
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, math.log1p(2 * math.exp(3 * c - 3 * psi)), rtol=1e-13)


def test_adacos_scale():
    assert adacos_scale(10) == pytest.approx(3.107, abs=1e-3)
    with pytest.raises(ValueError, match="three classes or more, not 2"):
        adacos_scale(2)


def test_cosines():
    got = cosines(jnp.array([[2.0, 0.0], [3.0, 4.0]]), jnp.array([[0.0, 7.0], [1.0, 0.0]]))
    np.testing.assert_allclose(got, [[0, 1], [0.8, 0.6]], atol=1e-6)


SUBCENTERS = jnp.array([[[0.0, 7.0], [0.0, -1.0]], [[1.0, 0.0], [-4.0, 3.0]]])


def test_cosines_to_the_nearest_subcenters():
    got = cosines(jnp.array([[2.0, 0.0], [3.0, 4.0], [0.0, -1.0]]), SUBCENTERS)
    np.testing.assert_allclose(got, [[0, 1], [0.8, 0.6], [1, 0]], atol=1e-6)


def test_cosines_are_float32_at_least():
    """As the loss has them: in float16 the squares of this length would overflow, and all directions be lost."""
    got = cosines(jnp.array([[3e3, 4e3]], jnp.float16), jnp.array([[0.0, 1.0]], jnp.bfloat16))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [[0.8]], rtol=1e-6)


def test_embeddings_of_no_class_vote_for_none():
    """Taken for an index, −1 would be class 1; and nearest of class 0's, the first that there is, is the second."""
    embeddings = jnp.array([[0.0, -1.0], [0.0, -1.0], [math.nan, math.inf]])
    got = dominant_centers(embeddings, SUBCENTERS, jnp.array([-1, -1, -1]))
    np.testing.assert_array_equal(got, SUBCENTERS[:, 0])


def test_labels_that_are_no_class_are_refused_where_they_are_known():
    x = jnp.ones((2, 2))
    for label in (2, -2, 2**40):
        with pytest.raises(ValueError, match=r"of row 1 is no class: there are 2, counted from 0, and −1 marks"):
            dominant_centers(x, SUBCENTERS, np.array([0, label]))
    assert np.isnan(jax.jit(dominant_centers)(x, SUBCENTERS, jnp.array([0, 2]))).all()


def test_lists_are_taken_where_arrays_are():
    x, w, labels = [[3.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [0, -1]
    loss = margin_softmax_loss(x, w, labels, margin=ArcFace(0.0), scale=1.0)
    np.testing.assert_allclose(loss, [math.log1p(math.exp(-1)), 0], rtol=1e-6)
    np.testing.assert_allclose(cosines(x, w), np.eye(2))
    np.testing.assert_array_equal(dominant_centers(x, SUBCENTERS.tolist(), [0, -1]), SUBCENTERS[:, 0])
    statistics = AdaFace().update(AdaFace().init(), jnp.array(x), jnp.array(w), labels)
    assert float(statistics["mean"]) == pytest.approx(0.99 * 20 + 0.01 * 3)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_that_are_none_are_refused(scale):
    for make in (
        lambda: MarginHead(3, ArcFace(), scale),
        lambda: margin_softmax_loss(jnp.eye(2), jnp.eye(2), [0, 1], margin=ArcFace(), scale=scale),
    ):
        with pytest.raises(ValueError, match=rf"scale must be in \(0, ∞\), not {scale}"):
            make()


def test_heads_say_what_they_cannot_be(unenforced):
    for changes, message in (
        ({"num_classes": 0}, "num_classes must be an integer of 1 or more, not 0"),
        ({"margin": 0.5}, r"margin must be one such as ArcFace\(0.5\), not 0.5"),
        ({"margin": ArcFace}, r"margin must be made of its class: write ArcFace\(…\)"),
        ({"scale": 1j}, "scale must be a number, not 1j"),
        ({"num_subcenters": 1.5}, "num_subcenters must be an integer of 1 or more, not 1.5"),
        ({"margin_grad": "straight"}, "margin_grad is exact or straight_through, not 'straight'"),
        ({"min_norm": -1.0}, r"min_norm must be in \[0, ∞\), not -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            MarginHead(**{"num_classes": 3, "margin": ArcFace(), "scale": 2.0} | changes)
    with pytest.raises(ValueError, match="num_classes must be an integer"):
        adacos_scale(10.5)
    with pytest.raises(ValueError, match=r"margin must be made of its class: write CosFace\(…\)"):
        margin_softmax_loss(np.ones((1, 2)), np.ones((3, 2)), [0], margin=CosFace, scale=2.0)


def test_dominant_centers():
    """Of class 0 two of three are nearer to its second; class 1 has none, so its first."""
    embeddings = jnp.array([[0.1, 1.0], [0.1, -1.0], [-1.0, -2.0]])
    got = dominant_centers(embeddings, SUBCENTERS, jnp.array([0, 0, 0]))
    np.testing.assert_array_equal(got, [[0, -1], [1, 0]])


@pytest.mark.parametrize("margin", [AdaFace(), CurricularFace()], ids=repr)
def test_a_margin_with_statistics_asks_for_them(margin, unenforced):
    with pytest.raises(ValueError, match=r"has statistics: give its \.at\(statistics, embeddings\)"):
        margin_softmax_loss(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]), margin=margin, scale=2.0)


@pytest.mark.parametrize(
    "margin", [CosFace(jnp.float32(0.3)), AdaFace(), CurricularFace()], ids=lambda m: type(m).__name__
)
def test_rows_split_over_an_explicit_mesh(margin):
    """Losses and both gradients are those of one device, and the losses stay split as the rows are."""
    rng = np.random.default_rng(0)
    x, w, labels = jnp.float32(rng.normal(size=(8, 4))), jnp.float32(rng.normal(size=(12, 4))), jnp.arange(8)

    @jax.jit
    def results(x, w, labels):
        def total(x, w):
            now = margin.at(margin.init(), x) if hasattr(margin, "at") else margin
            losses = margin_softmax_loss(x, w, labels, margin=now, scale=8.0, min_norm=1.0)
            return losses.sum(), losses

        return *jax.grad(total, (0, 1), has_aux=True)(x, w), cosines(x, w)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    rows, everywhere = jax.NamedSharding(mesh, jax.P("data")), jax.NamedSharding(mesh, jax.P())
    got = results(jax.device_put(x, rows), jax.device_put(w, everywhere), jax.device_put(labels, rows))
    assert got[1].sharding.spec[0] == "data"
    for ours, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(results(x, w, labels)), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_straight_through_by_hand():
    """ψ' = 1: the target's cosine moves the loss by −s·(1 − p), where p has the margin. The other class is at 90°."""
    theta, m, scale = 1.5, 0.5, 2.0
    w = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    x = jnp.array([[math.cos(theta), math.sin(theta), 0.0]])

    def loss(x):
        args = {"margin": ArcFace(m), "scale": scale, "margin_grad": "straight_through"}
        return margin_softmax_loss(x, w, jnp.array([0]), **args)[0]

    p = 1 / (1 + math.exp(-scale * math.cos(theta + m)))
    tangent = jnp.array([-math.sin(theta), math.cos(theta), 0])
    assert float(jax.jit(jax.grad(loss))(x)[0] @ tangent) == pytest.approx(scale * (1 - p) * math.sin(theta), rel=1e-5)


def test_curricularface_begins_by_squaring_hard_cosines():
    """At t = 0 a hard negative of cosine 0.8 counts as 0.64, one of −0.6, easy at θ = 60°, as itself."""
    margin = CurricularFace(0.5)
    x = jnp.array([[1.0, 0.0]])
    w = jnp.array([[0.5, math.sqrt(0.75)], [0.8, 0.6], [-0.6, 0.8]])
    loss = margin_softmax_loss(x, w, jnp.array([0]), margin=margin.at(margin.init(), x), scale=3.0)
    psi = math.cos(math.pi / 3 + 0.5)
    want = math.log1p(math.exp(3 * 0.64 - 3 * psi) + math.exp(-3 * 0.6 - 3 * psi))
    assert float(loss[0]) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("held", [[3.0, 1.0], [math.nan, 1.0], [math.inf, -math.inf], [3e38, 3e38]], ids=str)
@pytest.mark.parametrize("margin", [AdaFace(), CurricularFace()], ids=repr)
def test_ignored_rows_stay_ignored_whatever_they_hold(margin, held):
    """In statistics, losses and both gradients, with sub-centres and a least norm."""
    w, labels = SUBCENTERS, jnp.array([1, -1])

    @jax.jit
    def results(x):
        statistics = margin.update(margin.init(), x, w, labels)

        def total(x, w):
            now = margin.at(statistics, x)
            losses = margin_softmax_loss(x, w, labels, margin=now, scale=2.0, min_norm=3.0)
            return losses.sum(), losses

        return statistics, *jax.grad(total, (0, 1), has_aux=True)(x, w)

    statistics, (of_x, of_w), losses = results(jnp.array([[1.0, 2.0], held]))
    wanted_statistics, (wanted_x, wanted_w), wanted_losses = results(jnp.array([[1.0, 2.0], [0.5, 0.5]]))
    assert statistics == wanted_statistics and losses[1] == 0 and (of_x[1] == 0).all() and (of_x[0] != 0).any()
    np.testing.assert_array_equal(losses, wanted_losses)
    np.testing.assert_array_equal(of_x, wanted_x)
    np.testing.assert_array_equal(of_w, wanted_w)


def test_scores_head_by_hand():
    """Scores ln 1, ln 2, ln 5 are the probabilities ⅛, ¼ and ⅝."""
    head = ScoresHead()
    scores, labels = jnp.log(jnp.array([[1.0, 2.0, 5.0], [5.0, 2.0, 1.0]])), jnp.array([1, 0])
    losses = head.loss({}, head.init(jax.random.key(0), 3), scores, labels)
    np.testing.assert_allclose(losses, [math.log(4), math.log(1.6)], rtol=1e-6)
    assert head.predict({}, scores).tolist() == [2, 0]


def test_scores_heads_labels_are_as_in_the_other_heads():
    """−1 leaves a row out, whatever it holds; other labels that are no class give NaN, and spoil no other row."""
    scores, labels = jnp.log(jnp.array([[1.0, 2.0, 5.0]] * 4)).at[1].set(jnp.nan), jnp.array([1, -1, 3, -2])

    def total(scores):
        losses = ScoresHead().loss({}, {}, scores, labels)
        return losses[:2].sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(scores)
    np.testing.assert_allclose(losses, [math.log(4), 0, math.nan, math.nan], rtol=1e-6)
    np.testing.assert_allclose(gradient[:2], [[1 / 8, -3 / 4, 5 / 8], [0, 0, 0]], atol=1e-6)
    with jax.debug_nans(True):  # no healthy call makes a NaN on its way
        assert ScoresHead().loss({}, {}, jnp.zeros((2, 3)), [0, -1])[1] == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_short_embeddings_turn_no_faster_than_those_of_the_least_norm(dtype):
    """The gradient goes as 1/‖x‖: below `min_norm` it is that of min_norm·x̂, and nothing else changes."""
    direction, w = jnp.array([[0.6, 0.8]]), jnp.eye(3, 2)
    lengths, labels = jnp.array([1e-6, 0.25, 2.0, 3.0])[:, None], jnp.array([0, 1, 1, 2])
    x = (lengths * direction).astype(dtype)

    @functools.partial(jax.jit, static_argnames="min_norm")
    def loss(x, w, min_norm=0.0):
        return MarginHead(3, ArcFace(0.3), 3.0, min_norm=min_norm).loss({}, {"class_weights": w}, x, labels)

    def gradients(x, **how):
        return jax.jit(jax.grad(lambda x, w: loss(x, w, **how).sum(), (0, 1)))(x, w)

    np.testing.assert_array_equal(loss(x, w, min_norm=2.0), loss(x, w))
    of_x, of_w = gradients(x, min_norm=2.0)
    np.testing.assert_array_equal(of_w, gradients(x)[1])
    lengthened = (jnp.maximum(lengths, 2) * direction).astype(dtype)
    assert of_x.dtype == dtype
    rtol = 2e-6 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(*(np.asarray(g, np.float32) for g in (of_x, gradients(lengthened)[0])), rtol=rtol)
    zeros = gradients(jnp.zeros((4, 2), dtype), min_norm=2.0)[0]
    np.testing.assert_array_equal(zeros, jnp.zeros_like(zeros))


def test_least_norms_that_are_none_are_refused():
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"min_norm must be in \[0, ∞\), not "):
            margin_softmax_loss(jnp.eye(2), jnp.eye(2), jnp.arange(2), margin=ArcFace(), scale=1.0, min_norm=bad)
