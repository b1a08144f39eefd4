"""Measurements run, measure what they say, and refuse what they do not know."""

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from experiments.bench.accuracy import Accuracy
from experiments.bench.epoch import EpochCost, ratios_to_steps
from experiments.bench.harness import in_turns
from experiments.bench.head import Head
from experiments.bench.products import Products, products_of
from experiments.bench.recognition import Recognition
from experiments.bench.start import Start
from experiments.bench.step import Inference, Step
from experiments.bench.stream import StreamRate
from experiments.bench.workloads import workloads
from experiments.run.terminal import UserError
from experiments.tables.speed import recognition_beside_table


@pytest.mark.parametrize(
    "measurement", [Step, pytest.param(Inference, marks=pytest.mark.slow)], ids=lambda kind: kind.__name__
)
def test_contenders_are_timed_in_processes_of_their_own(measurement, capsys):
    result = measurement(variants=("v0",), rounds=1).run()
    row = result["rows"][0]
    assert row["name"] == "v0" and len(row["jaxnets"]["seconds"]) == 1
    assert 0 < row["jaxnets"]["median_seconds"] < 60 and row["jaxnets"]["compile_seconds"] > 0
    # v0's largest activation, 256 images of 26×26×16, is 11 MiB in training, and needs to be held at least once.
    assert row["jaxnets"]["peak_bytes"] > 11 * 2**20
    assert "v0" in capsys.readouterr().out


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match="no network 'v9' to measure; there is v0"):
        workloads(("v9",))


def test_all_are_the_variants():
    assert len(workloads(("all",))) == 12


def test_contenders_take_turns_and_the_first_round_does_not_count():
    taken = []
    ways = {name: lambda name=name: taken.append(name) or float(len(taken)) for name in "ab"}
    assert in_turns(ways, 2) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert taken == ["a", "b", "a", "b", "a", "b"]


def test_an_epoch_is_compared_with_its_steps_of_the_same_round():
    alone, epoch = ratios_to_steps({"steps alone": [1.0, 2.0, 4.0], "train_epoch": [2.0, 2.0, 2.0]})
    assert alone["ratio"] == 1 and alone["median_seconds"] == 2
    assert epoch["ratio"] == 1  # the median of 2, 1 and ½


@pytest.mark.slow
def test_an_epoch_is_timed_three_ways(capsys):
    result = EpochCost(variant="v0", steps=2, rounds=1).run()
    assert [row["way"] for row in result["rows"]] == ["steps alone", "train_epoch", "one scan"]
    assert all(row["median_seconds"] > 0 for row in result["rows"])
    assert "2 steps of v0" in capsys.readouterr().out


@pytest.mark.slow
def test_an_epoch_of_pictures_is_timed_on_the_device_on_the_host_and_streamed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (9, 9), (level, i, i)).save(tmp_path / "pictures" / name / f"{i}.png")
    options = {"variant": "mynn", "size": 16, "batch_size": 4, "rounds": 1}
    of_folder = EpochCost(**options, data=f"folder:{tmp_path / 'pictures'}", steps=20).run()
    of_faces = EpochCost(**options, steps=2).run()
    ways = ["steps alone", "on the device", "mapped on the host", "streamed"]
    assert [row["way"] for row in of_folder["rows"]] == ways and [row["way"] for row in of_faces["rows"]] == ways[:3]
    assert of_folder["steps"] == 3, "ten pictures in batches of four"
    assert of_folder["batch_shape"] == [4, 16, 16, 3] and of_faces["steps"] == 2
    assert all(row["median_seconds"] > 0 for row in of_folder["rows"] + of_faces["rows"])
    assert "3 steps of mynn" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"variant": "v9"}, {"steps": 0}, {"variant": "mynn", "data": "nothing"}], ids=str)
def test_unusable_measurements_of_epochs_are_refused(options):
    with pytest.raises(UserError, match=r"no network 'v9'|--steps must be|'nothing': no such data set"):
        EpochCost(**options).run()


def test_products_are_found_and_counted_within_functions():
    @jax.jit
    def program(a, b):
        twice = jax.vmap(jnp.matmul)(a, b) @ b[0]
        return twice.sum() + (a[0] @ b[0]).sum()

    found = products_of(jax.make_jaxpr(program)(jnp.ones((3, 4, 5)), jnp.ones((3, 5, 5))).jaxpr)
    assert sorted(product.flop for product in found) == [2 * 4 * 5 * 5, 2 * 3 * 4 * 5 * 5, 2 * 3 * 4 * 5 * 5]


def test_products_of_a_loop_count_as_often_as_it_goes_round():
    def program(x, y):
        return jax.lax.scan(lambda carry, row: (carry, row @ y), None, x)[1]

    found = list(products_of(jax.make_jaxpr(program)(jnp.ones((7, 3, 5)), jnp.ones((5, 2))).jaxpr))
    assert [product.flop for product in found] == 7 * [2 * 3 * 5 * 2]


@pytest.mark.slow
def test_a_step_is_held_against_its_products(capsys):
    result = Products(variant="v0", rounds=1).run()
    assert result["products_seconds"] > 0 and result["step_seconds"] > 0
    # The Linear layer, 256 images × 6400 features → 2, is there with both its gradients.
    assert sum(row["times"] for row in result["products"] if "6400" in row["product"]) >= 3
    assert "all products" in capsys.readouterr().out


def test_training_beside_pytorch_begins_alike(capsys):
    pytest.importorskip("torch")
    (row,) = Accuracy(size=32, epochs=1, batch_size=16, steps_per_epoch=4).run()["rows"]
    ours, theirs = row["jaxnets"], row["torch"]
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5) and ours["train_loss"] > 0
    assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.01)
    assert "mynn on faces" in capsys.readouterr().out


def test_training_a_variant_beside_pytorch_begins_alike_from_each_seed(digits):
    """Its head with class weights, the shorter gradient of short embeddings and an optimiser of its own included."""
    pytest.importorskip("torch")
    taken = Accuracy("v1_2_2", data=f"idx:{digits}", epochs=1, batch_size=40, steps_per_epoch=3, seed=1, seeds=2)
    rows = taken.run()["rows"]
    assert [row["seed"] for row in rows] == [1, 2]
    for row in rows:
        ours, theirs = row["jaxnets"], row["torch"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.02)
    assert rows[0]["jaxnets"]["train_loss"] != rows[1]["jaxnets"]["train_loss"]


def test_recognition_beside_pytorch_ends_alike(fonts, capsys):
    """By the loss of pytorch-metric-learning, with decay, clipping, warm-up and a falling rate."""
    pytest.importorskip("pytorch_metric_learning")
    taken = Recognition("v0", data=f"glyphs:{fonts}", size=28, epochs=2, steps_per_epoch=4, seeds=1)
    result = taken.run()
    (row,) = result["rows"]
    ours, theirs = row["jaxnets"], row["torch"]
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3) and ours["train_loss"] > 1
    assert ours["map_at_r"] == pytest.approx(theirs["map_at_r"], abs=0.05) and 0.1 < ours["map_at_r"] < 0.98
    assert "torch" in capsys.readouterr().out
    made = {"command": "it", "environment": {"cpu": "", "cpu_cores": 2, "python": "", "jax": ""}}
    table = recognition_beside_table(result | made)
    assert f"| PyTorch and pytorch-metric-learning | {100 * theirs['precision_at_1']:.2f} |" in table


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        *[(kind(rounds=0), "--rounds must be 1 or more, not 0") for kind in (Step, Inference, Products, Start)],
        (Step(variants=()), "no name of a network to measure is given; there is v0"),
        (Recognition("v1_2_4x"), "there is no variant 'v1_2_4x'; did you mean 'v1_2_4'"),
        (Accuracy("v9"), "there is no network 'v9' to measure; there is v0"),
        (Start(variant="v9"), "there is no variant 'v9' to start; there is v0"),
    ],
    ids=repr,
)
def test_an_unusable_measurement_is_refused_in_a_sentence(config, complaint):
    with pytest.raises(UserError, match=complaint):
        config.run()


def test_training_beside_pytorch_needs_pytorch(monkeypatch):
    for measurement in (Accuracy, Recognition):
        monkeypatch.setattr(f"{measurement.__module__}.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install -e '\.\[torch\]'"):
            measurement().run()


def test_heads_are_timed_or_say_why_not(capsys):
    contenders = ("reference", "chunked", "pallas_gpu")
    (row,) = Head(classes=(300,), batches=(16,), dimensions=8, dtype="float32", contenders=contenders, rounds=1).run()[
        "rows"
    ]
    for name in ("reference", "chunked"):
        assert 0 < row[name]["forward_seconds"] < 10 and 0 < row[name]["both_seconds"] < 10
    # Full logits, 16 × 300 numbers, are beyond arguments and results.
    assert row["reference"]["temporary_bytes"] > 16 * 300 * 4
    assert "pallas_gpu" in row["pallas_gpu"]["refused"]
    assert "300" in capsys.readouterr().out


def test_a_head_of_pytorch_is_timed_too(capsys):
    pytest.importorskip("torch")
    (row,) = Head(classes=(300,), batches=(16,), dimensions=8, dtype="float32", contenders=("torch",), rounds=1).run()[
        "rows"
    ]
    assert row["torch"]["matrix_rate"] > 1e8 and row["torch"]["both_seconds"] > 0
    assert "torch" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"contenders": ("numpy",)}, {"classes": (1,)}, {"batches": (0,)}, {"rounds": 0}])
def test_unusable_measurements_of_heads_are_refused(options):
    with pytest.raises(UserError, match="--"):
        Head(**options).run()


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")
def test_a_stream_of_records_is_timed_beside_the_decoding_of_them(capsys):
    result = StreamRate(pictures=40, size=16, rounds=1).run()
    assert result["pictures"] == 36  # a tenth of each identity is held out
    assert [row["name"] for row in result["rows"]][:3] == ["the stream", "Pillow, all processors", "Pillow, one thread"]
    assert all(row["pictures_per_second"] > 0 for row in result["rows"])
    assert "36 pictures of 16×16" in capsys.readouterr().out
