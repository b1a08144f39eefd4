"""What the loss of split classes refuses, each in a sentence."""

import jax
import jax.numpy as jnp
import pytest
from jax import P

from jaxnets import sharded_margin_softmax_loss
from jaxnets.margins import AdaFace, CosFace
from kernels.margin_softmax import Drawn
from tests.jaxnets.test_sharded_losses import mesh_of, over_devices, problem


def test_misfits_are_refused(unenforced):
    x, w, labels, g = problem(40)

    def refused(match, error=ValueError, **options):
        with pytest.raises(error, match=match):
            over_devices("classes", CosFace(), scale=1.0, **options)(x, w, labels, g)

    refused(r"num_classes must be in 1…40, the number of all class weights, not 41", num_classes=41)
    refused(r"num_classes must be in 1…40", num_classes=0)
    refused(r"give both sample and key, or neither", sample=0.5)
    refused(r"give both sample and key, or neither", key=jax.random.key(0))
    refused(r"the share of classes to keep, in \(0, 1\], not 1.5", sample=1.5, key=jax.random.key(0))
    drawn = Drawn(jnp.zeros(1, jnp.int32), jnp.zeros(5, jnp.int32))
    refused(r"the classes are drawn already", sample=0.5, key=jax.random.key(0), drawn=drawn)
    refused(r"min_norm must be in \[0, ∞\), not -1.0", min_norm=-1.0)
    refused(r"implementation reference is of one device", error=NotImplementedError, implementation="reference")
    refused(r"pallas_tpu runs on TPUs alone", error=NotImplementedError, implementation="pallas_tpu")
    refused(
        r"pallas_tpu takes no sample: the number of its classes varies",
        error=NotImplementedError,
        implementation="pallas_tpu",
        sample=0.5,
        key=jax.random.key(0),
    )
    refused(
        r"pallas_gpu takes no padding, and 39 classes leave some on 8 devices",
        error=NotImplementedError,
        implementation="pallas_gpu",
        num_classes=39,
    )
    refused(r"margin_grad is exact or straight_through, not 'none'", margin_grad="none")

    def call(x_spec, w_spec, labels_spec, check_vma=True, margin=None):
        def losses(x, w, labels):
            return sharded_margin_softmax_loss(x, w, labels, axis_name="class", margin=margin or CosFace(), scale=1.0)

        specs = {"in_specs": (x_spec, w_spec, labels_spec), "out_specs": P(), "check_vma": check_vma}
        jax.shard_map(losses, mesh=mesh_of("classes"), **specs)(x, w, labels)

    split = P("class")
    with pytest.raises(ValueError, match="class_weights must be split over 'class'"):
        call(split, P(), split)
    with pytest.raises(ValueError, match=r"by in_specs of a shard_map that checks \(check_vma=True\)"):
        call(split, split, split, check_vma=False)
    with pytest.raises(ValueError, match=r"embeddings and labels must be split alike over 'class'"):
        call(split, split, P())
    with pytest.raises(ValueError, match=r"has statistics: give them, see jaxnets.margins.sharded_update"):
        call(split, split, split, margin=AdaFace())
