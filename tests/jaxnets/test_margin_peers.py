"""Our losses against those of other libraries: kept in a fixture, and run live where they are installed.

Where a peer computes another function than its name says, the equal one is made of our pieces in `OURS`, with a word on
the difference.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.losses import margin_softmax_loss
from jaxnets.margins import AdaFace, ArcFace, CosFace, CurricularFace, NormFace, SphereFace

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixed(margin, scale=16.0, **options):
    """(the statistics to begin with, (statistics, batch) -> (statistics, losses)) of a margin without any."""

    def losses(statistics, x, w, labels):
        return statistics, margin_softmax_loss(x, w, labels, margin=margin, scale=scale, **options)

    return {}, losses


def adaptive(margin, scale=16.0, **start):
    """The same of a margin that begins with `start`."""

    def losses(statistics, x, w, labels):
        statistics = margin.update(statistics, x, w, labels)
        now = margin.at(statistics, x)
        return statistics, margin_softmax_loss(x, w, labels, margin=now, scale=scale)

    return start, losses


def of_each_length(margin, scale):
    """The scale of a row is its embedding's length, times a constant, and has a gradient."""

    def losses(statistics, x, w, labels):
        def one(x, label):
            s = scale * jnp.linalg.norm(x)
            return margin_softmax_loss(x[None], w, label[None], margin=margin, scale=s, implementation="reference")[0]

        return statistics, jax.vmap(one)(x, labels)

    return {}, losses


OURS = {
    # The same functions; there the margin is in degrees, the class weights are [D, C], and gradients at θ = 0 infinite.
    "pml_arcface": fixed(ArcFace(0.5)),
    "pml_cosface": fixed(CosFace(0.35)),
    # There the embeddings keep their lengths, as in the paper, and m is a whole number.
    "pml_sphereface": of_each_length(SphereFace(4), 1.5),
    "pml_subcenters": fixed(ArcFace(0.5)),
    # A temperature is one over a scale.
    "pml_normalized_softmax": fixed(NormFace(), scale=1 / 0.05),
    # Not handled past π − m, and not differentiated.
    "arcface_torch": fixed(ArcFace(0.5, beyond="rising"), margin_grad="straight_through"),
    "arcface_torch_cosface": fixed(CosFace(0.4)),
    # There cosines are clipped to ±0.999 too; no row of these is so near to a class.
    "adaface": adaptive(AdaFace(0.4, 0.333), mean=20.0, std=100.0),
    "adaface_of_the_batch": adaptive(AdaFace(0.4, 0.333, t_alpha=1.0), mean=20.0, std=100.0),
    "curricularface": adaptive(CurricularFace(0.5), t=0.4),
}


def kept(name):
    """The fixture's batches of a peer."""
    with np.load(FIXTURES / "margin_peers.npz") as file:
        keys = [key.split("/") for key in file.files if key.startswith(f"{name}/")]
        batches = [{} for _ in {batch for _, batch, _ in keys}]
        for _, batch, key in keys:
            batches[int(batch)][key] = file[f"{name}/{batch}/{key}"]
    return batches


def live(name):
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    from tests.fixtures import make_margin_peers

    return make_margin_peers.PEERS[name]()


@functools.cache  # so that what a fixture and a live peer are compared with is compiled once
def differentiated(name):
    def mean(x, w, labels, statistics):
        statistics, each = OURS[name][1](statistics, x, w, labels)
        return each.mean(), statistics

    return jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # of pytorch-metric-learning
@pytest.mark.parametrize("source", [kept, live], ids=lambda source: source.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OURS)
def test_value_statistics_and_gradients(name, source, dtype):
    """To 1e-5 of the largest in float32, and so far in float64 that what is equal is the function."""
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    with jax.enable_x64(dtype == "float64"):
        statistics = {key: jnp.asarray(value, dtype) for key, value in OURS[name][0].items()}
        for batch in source(name):
            x, w = (jnp.asarray(batch[key], dtype) for key in ("x", "w"))
            (loss, statistics), (dx, dw) = differentiated(name)(x, w, jnp.asarray(batch["labels"]), statistics)
            assert loss.dtype == dtype
            np.testing.assert_allclose(loss, batch["loss"], rtol=tolerance)
            for key, value in statistics.items():
                np.testing.assert_allclose(value, batch[key], rtol=tolerance)
            lengths = np.linalg.norm(batch["x"], axis=1, keepdims=True)  # or the short rows' gradients were all
            for gradient, wanted in ((dx * lengths.astype(dtype), batch["dx"] * lengths), (dw, batch["dw"])):
                np.testing.assert_allclose(gradient, wanted, atol=tolerance * np.abs(wanted).max())


def test_the_fixture_has_rows_of_each_kind():
    """Or the comparison would pass without what is special: rows past π − m, hard negatives, margins at their ends."""
    for name in ("pml_arcface", "arcface_torch", "curricularface"):
        cosines, own = angles_of(name, 0)
        assert (own > math.pi - 0.5).sum() >= 2 and (own < 0.25).any()
        assert (cosines > np.cos(own + 0.5)[:, None]).sum() > 12  # a row's own class is one
        assert (np.sort(cosines[1])[:2] < math.cos(own[1] + 0.5)).all()  # one not hard, though ψ is below it
    for batch, row, end, angle in ((0, 0, 1, 0.2), (1, 1, -1, math.pi - 0.2)):
        arrays = kept("adaface_of_the_batch")[batch]
        lengths = np.linalg.norm(arrays["x"], axis=1).clip(1e-3, 100)
        assert end * 0.333 * (lengths[row] - arrays["mean"]) / (arrays["std"] + 1e-3) > 1  # so that g_angle is ∓0.4
        cosines, own = angles_of("adaface_of_the_batch", batch)
        assert own[row] == pytest.approx(angle, abs=1e-5) and np.abs(cosines).max() < 0.999


def angles_of(name, batch):
    arrays = kept(name)[batch]
    x, w = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (arrays["x"], arrays["w"]))
    cosines = x.astype(np.float64) @ w.T
    return cosines, np.arccos(cosines[np.arange(len(x)), arrays["labels"]])
