"""The recipe that recognition's options name: the head, the learning rate, the optimisers."""

import math

import jax
import numpy as np
import pytest

from experiments.recognition.config import COMPARED, Config
from experiments.recognition.optimizing import build_optimizers, build_schedule
from experiments.run.margin import LOSSES, build_head
from experiments.run.options import MARGINS
from jaxnets import (
    AdaCos,
    BinaryHead,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    MarginHead,
    NormFace,
    SphereFace2,
    UniFace,
)


def test_twelve_losses_are_compared_and_with_one_scale_eleven():
    asked = Config(margin="all")
    assert asked.margins == COMPARED and len(COMPARED) == 12 and asked.m is asked.s is None
    assert {*COMPARED} - {*Config(margin="all", s=20.0).margins} == {"adacos"}
    assert {*MARGINS} == {*LOSSES}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"margin": "magface", "u_m": 0.7, "s": 20.0}, MarginHead(31, MagFace(u_m=0.7), 20.0)),
        (
            {"margin": "elastic_arcface", "m": 0.4, "std": 0.02, "subcenters": 2, "min_norm": 1.0},
            MarginHead(31, ElasticArcFace(0.4, 0.02), math.sqrt(2) * math.log(30), num_subcenters=2, min_norm=1.0),
        ),
        ({"margin": "elastic_cosface", "s": 9.0}, MarginHead(31, ElasticCosFace(), 9.0)),
        ({"margin": "adacos"}, MarginHead(31, NormFace(), AdaCos(31))),
        (
            {
                "margin": "sphereface2",
                "m": 0.2,
                "balance": 0.6,
                "t": 2.0,
                "weight": 9.0,
                "margin_grad": "straight_through",
            },
            BinaryHead(31, SphereFace2(0.2, balance=0.6, t=2.0, weight=9.0, margin_grad="straight_through")),
        ),
        (
            {"margin": "uniface", "s": 30.0, "subcenters": 2, "min_norm": 1.0},
            BinaryHead(31, UniFace(scale=30.0), num_subcenters=2, min_norm=1.0),
        ),
        ({"margin": "uniface", "m": 0.2}, BinaryHead(31, UniFace(0.2, 2 * math.sqrt(2) * math.log(30)))),
    ],
    ids=lambda value: value["margin"] if isinstance(value, dict) else "",
)
def test_options_make_heads(options, expected):
    head, margin, scale = build_head(Config(**options), 31, "glyphs")
    assert head == expected and margin == (head.form if isinstance(head, BinaryHead) else head.margin)
    wanted = expected.form.scale if isinstance(expected, BinaryHead) else expected.scale
    assert scale == (math.sqrt(2) * math.log(30) if options["margin"] == "adacos" else wanted)


def test_the_rate_rises_on_a_line_and_falls_as_a_cosine():
    """Five epochs of four steps, of which the first is warm-up."""
    schedule = build_schedule(Config(lr=0.4, warmup=1.0), epochs=5, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in range(20)]
    np.testing.assert_allclose(rates[:4], 0.1 + 0.3 * np.arange(4) / 4, rtol=1e-6)
    np.testing.assert_allclose(rates[4:], 0.2 * (1 + np.cos(np.pi * np.arange(16) / 16)), rtol=1e-5)


def step(rule, gradient, params):
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(lambda gradient, params: rule.update(gradient, rule.init(params), params)[0])(gradient, params)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_matrices_alone_decay(optimizer):
    params = {"kernel": np.full((2, 3), 2, np.float32), "bias": np.ones(3, np.float32), "slope": np.float32(0.25)}
    for rule in build_optimizers(Config(optimizer=optimizer, weight_decay=0.01), lambda step: 0.5):
        still = jax.tree.map(np.zeros_like, params)
        updates = step(rule, still, params)
        np.testing.assert_allclose(updates["kernel"], np.full((2, 3), -0.5 * 0.01 * 2), rtol=1e-6)
        assert not np.any(updates["bias"]) and not np.any(updates["slope"])


def test_the_networks_gradient_alone_is_clipped():
    params, gradient = {"kernel": np.zeros((1, 2), np.float32)}, {"kernel": np.array([[6, 8]], np.float32)}
    rules = build_optimizers(Config(clip=5.0), lambda step: 1.0)
    lengths = [np.linalg.norm(step(rule, gradient, params)["kernel"]) for rule in rules]
    assert lengths == pytest.approx([5.0, 10.0])
