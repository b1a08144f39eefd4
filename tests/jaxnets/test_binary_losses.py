"""SphereFace2 and UniFace, against their papers' formulas in float64, with central differences for gradients."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import (
    BinaryHead,
    SphereFace2,
    Split,
    UniFace,
    binary_margin_loss,
    create,
    create_train_state,
    sgd,
    train_step,
)
from tests.jaxnets.formulas import COUNTED, LABELS, C, D, N, check, cosines, problem, quick, with_gradients

P = jax.P


def spread(z, t):
    return 2 * ((z + 1) / 2) ** t - 1


def sphereface2(x, w, b):
    found, terms = cosines(x, w), np.zeros(N)
    for i in np.flatnonzero(COUNTED):
        for j in range(C):
            g = spread(found[i, j], 3)
            if j == LABELS[i]:
                terms[i] += 9 * 0.7 / 20 * np.log1p(np.exp(-20 * (g - 0.4) - b[()]))
            else:
                terms[i] += 9 * 0.3 / 20 * np.log1p(np.exp(20 * (g + 0.4) + b[()]))
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


BINARY = {
    "sphereface2": (SphereFace2(scale=20.0, weight=9.0), sphereface2),
    "uniface": (UniFace(0.4, 16.0, 0.7), uniface),
}


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


def test_binary_losses_see_the_nearest_sub_centre_and_mark_labels_that_are_none():
    """By the same formula of the largest cosine; a label beyond the classes gives NaN."""
    x, _ = problem()
    w = np.random.default_rng(1).normal(size=(C, 3, D))
    labels = np.where(LABELS == 5, C, LABELS)
    loss = quick(partial(binary_margin_loss, form=BINARY["uniface"][0], bias=-3.0, chunk=4))
    got = loss(x.astype(np.float32), w.astype(np.float32), labels)
    cos_theta = np.max([cosines(x, w[:, k]) for k in range(3)], axis=0)
    own = np.arange(C)[None, :] == LABELS[:, None]
    terms = np.where(own, np.log1p(np.exp(-16 * (cos_theta - 0.4) - 3)), 0.7 * np.log1p(np.exp(16 * cos_theta + 3)))
    want = np.where(labels == C, np.nan, np.where(COUNTED, terms.sum(axis=1), 0))
    np.testing.assert_allclose(got, want, rtol=2e-5)


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
    made = quick(lambda key: heads[2].init(key, D))(jax.random.key(0))
    assert made["class_weights"].shape == (C, D)
    params = {"class_weights": jnp.asarray(w), "bias": made["bias"]}
    found = [
        quick(jax.value_and_grad(lambda x, head=head: head.loss({}, params, x, LABELS).sum()))(x) for head in heads
    ]
    for exact, straight in (found[:2], found[2:]):
        np.testing.assert_allclose(exact[0], straight[0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    assert np.abs(found[2][1] - found[3][1]).max() > 1e-3 * np.abs(found[2][1]).max()
    nearest = quick(heads[0].predict)(params, jnp.asarray(x))
    np.testing.assert_array_equal(nearest, cosines(x, w).argmax(axis=1))


def test_a_binary_head_has_sub_centres_and_steadies_short_embeddings():
    """Of three sub-centres a class, and embeddings of length 3 whose gradient is that of length 30."""
    x, _ = (array.astype(np.float32) for array in problem())
    plain, head = BinaryHead(C, UniFace(), 3), BinaryHead(C, UniFace(), 3, min_norm=30.0)
    params = head.init(jax.random.key(0), D)
    assert params["class_weights"].shape == (C, 3, D)
    limited, exact = (quick(jax.grad(lambda x, h=h: h.loss({}, params, x, LABELS).sum()))(x) for h in (head, plain))
    share = np.minimum(np.linalg.norm(x, axis=1, keepdims=True) / 30, 1)
    assert share[0, 0] == pytest.approx(0.1)
    np.testing.assert_allclose(limited, share * exact, rtol=1e-4, atol=1e-6)


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
        (lambda: SphereFace2(balance=1.0), r"SphereFace2's balance must be in \(0, 1\), not 1.0"),
        (lambda: SphereFace2(weight=0), r"SphereFace2's weight must be in \(0, ∞\), not 0"),
        (lambda: SphereFace2(margin_grad="none"), "margin_grad is exact or straight_through, not 'none'"),
        (lambda: UniFace(scale=0), r"UniFace's scale must be in \(0, ∞\), not 0"),
        (lambda: BinaryHead(3, UniFace), r"form must be made of its class: write UniFace\(…\)"),
        (lambda: BinaryHead(1, UniFace()), "num_classes must be an integer of 2 or more, not 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
