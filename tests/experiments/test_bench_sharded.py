"""What a step with split classes takes, counted in programs: by hand, and of programs that do what they must not."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.bench import sharded_head, sharded_worker
from experiments.bench.head import Head
from experiments.bench.sharded_head import estimate
from experiments.run.terminal import UserError
from experiments.tables.speed import sharded_head_table
from kernels.margin_softmax import choice

DEVICES, CLASSES, BATCH, D = 8, 2048, 64, 16
SIZES = {"classes": CLASSES, "batch": BATCH, "dimensions": D, "devices": DEVICES}
PROGRAM = """HloModule step
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

ENTRY %main (p: f32[4,2]) -> f32[32,2] {
  %all-reduce = (f32[2,6]{1,0}, bf16[6]{0}) all-reduce(%x, %y), channel_id=1, to_apply=%add
  %rs = f32[5,3]{1,0} reduce-scatter(%z), channel_id=2, dimensions={0}, to_apply=%add
  %ag.1 = pred[16]{0} all-gather(%q), channel_id=4, dimensions={0}
  ROOT %ag = f32[32,2]{1,0} all-gather(%p), channel_id=3, dimensions={0}
}
"""


def test_sent_bytes_are_those_of_a_ring():
    sent = sharded_worker.sent_bytes(PROGRAM, 8)
    assert sent == {
        "all-reduce": 2 * 7 / 8 * (2 * 6 * 4 + 6 * 2),
        "reduce-scatter": 7 * 5 * 3 * 4,
        "all-gather": 7 / 8 * (16 + 32 * 2 * 4),
    }
    in_a_loop = PROGRAM.replace("ROOT %c = f32[] add(%a, %b)", "ROOT %c = f32[] all-reduce(%a)")
    for other in (in_a_loop, PROGRAM.replace("all-gather(%p", "all-gather-start(%p")):
        with pytest.raises(ValueError, match="its bytes cannot be counted"):
            sharded_worker.sent_bytes(other, 8)


@pytest.mark.slow
def test_a_step_keeps_classes_split_and_sends_what_the_model_says(monkeypatch):
    monkeypatch.setattr(choice, "chunk_size", lambda *_: 128)
    monkeypatch.setattr(sharded_worker, "chunk_size", lambda *_: 128)
    counted = sharded_worker.main(SIZES | {"sample": None})
    model = sharded_head.model(**SIZES)
    assert model["model_sent_bytes"] == 7 / 8 * BATCH * (8 * D + 4 + 16)
    # Beside the class weights and their momentum: the network and its, a batch's share, a key and counts.
    assert 0 < counted["state_bytes"] - model["model_state_bytes"] < 1024
    assert counted["temporary_bytes"] > model["model_gradient_bytes"]
    assert counted["copied_bytes"] < 1024  # the state is updated in place
    # Cosine and class of the nearest of each device; the largest sums; the network's 2·D numbers, and a few more.
    of_accuracy, of_network = 7 / 8 * DEVICES * BATCH * 8, 2 * 7 / 8 * 4 * (2 * D + 3)
    beyond = sum(counted["sent_bytes"].values()) - model["model_sent_bytes"] - of_accuracy - of_network
    assert 0 <= beyond <= 2 * 7 / 8 * 4 * BATCH
    # Of a sample there is no gradient of all class weights, nor a copy of them; its numbers of each class are few.
    sizes = SIZES | {"classes": 80_000, "dimensions": 48}
    of_sample = sharded_worker.main(sizes | {"sample": 0.01})
    assert of_sample["copied_bytes"] < 1024
    assert of_sample["temporary_bytes"] < sharded_head.model(**sizes)["model_gradient_bytes"] / 2


@pytest.mark.parametrize(
    ("function", "split", "words"),
    [
        (
            lambda x, w: jax.lax.with_sharding_constraint(w, P()) * 2,
            P("class"),
            r"\[2048, 16\] has room for all of 2048",
        ),
        (lambda x, w: (x @ w.T).max(), P(), r"\[64, 2048\] has room for all of 2048 classes"),
        (lambda x, w: jnp.exp(x @ w.T).max(axis=1), P("class"), r"has room for more than 128 logits of each row"),
    ],
)
def test_programs_that_hold_too_much_are_refused(function, split, words, monkeypatch):
    monkeypatch.setattr(sharded_worker, "chunk_size", lambda *_: 128)
    mesh = jax.sharding.Mesh(jax.devices()[:DEVICES], ("class",))
    x = jax.ShapeDtypeStruct((BATCH, D), jnp.float32, sharding=NamedSharding(mesh, P()))
    w = jax.ShapeDtypeStruct((CLASSES, D), jnp.float32, sharding=NamedSharding(mesh, split))
    with jax.set_mesh(mesh):
        program = jax.jit(function).lower(x, w).compile().as_text()
    with pytest.raises(ValueError, match=words):
        sharded_worker.check_split(program, **SIZES)


@pytest.mark.slow
def test_the_command_counts_in_a_process_of_its_own(capsys):
    result = Head(sharded=True, classes=(20_000,), batches=(64,), dimensions=32, devices=4, sample=0.25).run()
    json.dumps(result)
    everything, sampled = result["rows"]
    assert (everything["sample"], sampled["sample"]) == (None, 0.25)
    for row in (everything, sampled):
        assert row["state_bytes"] == pytest.approx(8 * 5000 * 32, rel=0.01)
    assert (everything["model_gradient_bytes"], sampled["model_gradient_bytes"]) == (4 * 5000 * 32, 4 * 1569 * 32)
    out = capsys.readouterr().out
    assert "a step of 4 devices" in out and "0.25" in out
    lines = sharded_head_table(
        result | {"command": "it", "environment": {"cpu": "", "cpu_cores": 2, "python": "", "jax": ""}}
    )
    assert "| 20,000 | all | 1.2 MiB | 1.2 MiB |" in lines and "| 20,000 | 25% |" in lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": (512,)}, "more --classes than rows and --dimensions, 4096"),
        ({"devices": 1}, "--devices 2 or more"),
        ({"devices": 0}, "--devices must be 1 or more"),
        ({"sample": 0.0}, r"--sample in \(0, 1\]"),
        ({"batches": (4094,)}, "--batches must be multiples of --devices, 8"),
    ],
)
def test_what_cannot_be_counted_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        Head(sharded=True, **options).run()


@pytest.mark.parametrize(
    ("classes", "devices", "gigabytes", "milliseconds"),
    [
        (10**6, 8, 0.768, (2.65, 0.371, 0.357, 0.0832, 0.0246)),
        (10**7, 64, 0.96, (26.5, 8.38, 0.447, 0.235, 1.99)),
        (10**8, 8, 76.8, (265, 26.8, 35.7, 6.01, 0.0246)),
    ],
)
def test_the_estimate_is_what_one_finds_by_hand(classes, devices, gigabytes, milliseconds):
    """With 1e6 classes on 8 devices: 8·4096·125,000·512 operations; 24 · 125,000 · 512 bytes; 7/8·4096·3092 bytes."""
    found = estimate(classes, devices, 0.1)
    assert found.held / 1e9 == pytest.approx(gigabytes, rel=1e-3)
    times = (found.products, found.sampled_products, found.update, found.sampled_update, found.talk)
    assert [1e3 * seconds for seconds in times] == pytest.approx(milliseconds, rel=5e-3)
