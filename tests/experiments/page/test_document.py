"""The files themselves: what is in them, that nothing in them can act, and how large they are."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from experiments.page import Frame, Run, run_page
from experiments.page.document import document, finite, flat, pack, sprite
from experiments.page.embeddings import spread
from jaxnets.figures.plane import scatter_radius
from tests.experiments.page.packed import data_of, numbers


def test_nothing_in_the_data_is_markup():
    hostile = {"a</script><b>": ["<!--", "\u2028", "{{style}}", "\udcff"]}
    content = document("<i>{{data}}", hostile, [])
    text = content.decode()
    assert text.count("</script>") == 2 and "<!--" not in text and "<title>&lt;i&gt;{{data}}</title>" in text
    assert data_of(content) == {"a</script><b>": ["<!--", "\u2028", "{{style}}", "?"]}


def test_what_is_not_finite_is_null():
    assert finite({"a": [1.5, float("nan")], "b": (float("inf"), 2)}) == {"a": [1.5, None], "b": [None, 2]}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, ">i2"])
def test_packed_numbers_come_back(dtype):
    array = np.array([[0, 1], [100, 255]], dtype)
    packed = pack(array)
    np.testing.assert_array_equal(
        numbers({**packed, "dtype": np.dtype(packed["dtype"]).newbyteorder("<")}), array.ravel()
    )


def test_a_sprite_holds_small_pictures_as_they_are(pictures):
    made = sprite(pictures, np.arange(200))
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["uri"].partition(",")[2]))))
    assert (made["side"], made["columns"], sheet.shape) == (28, 15, (14 * 28, 15 * 28))
    for number in (0, 14, 15, 199):
        top, left = number // 15 * 28, number % 15 * 28
        np.testing.assert_array_equal(sheet[top : top + 28, left : left + 28], pictures[number, :, :, 0])


def test_large_coloured_pictures_become_thumbnails():
    images = np.random.default_rng(0).integers(0, 256, (30, 50, 40, 3), np.uint8)
    made = sprite(images, np.arange(30))
    assert made["uri"].startswith("data:image/jpeg;") and made["side"] == 56


def test_a_run_s_points_lie_where_its_embeddings_are(a_run, pictures):
    data = data_of(run_page(a_run, pictures, title="four", command="python -m x", config={"a": {"b": [1, 2]}}))
    run = data["run"]
    assert run["count"] == 200 and run["note"] == "" and data["config"] == [["a.b", "1, 2"]]
    radius = max(scatter_radius(frame.embeddings) for frame in a_run.frames)
    assert run["radius"] == radius
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(numbers(run["labels"]), a_run.labels[order])
    for packed, frame in zip(run["frames"], a_run.frames, strict=True):
        points = numbers(packed["points"]).reshape(-1, 2) / 32767 * 1.2 * radius
        np.testing.assert_allclose(points, frame.embeddings[order], atol=1.2 * radius / 32767)
        assert packed["rays"] == [[1, 0], [0, 1], [-1, 0], [0, -1]]


def test_what_lies_outside_keeps_its_direction():
    points = np.array([[3.0, 4.0]] * 200 + [[3e4, 4e4], [np.nan, 1.0]], np.float32)
    line = {
        "epoch": 1,
        "verdict": "overlapping",
        "separability": dict.fromkeys(("smallest_gap_degrees", "largest_gap_degrees")),
    }
    line |= dict.fromkeys(("train_loss", "test_loss", "train_accuracy", "test_accuracy"), float("nan"))
    run = Run("far", [Frame(line, points, np.eye(2, dtype=np.float32))], np.zeros(202, int), ["a", "b"])
    data = data_of(run_page(run, np.zeros((202, 8, 8, 1), np.uint8), title="far", command="", config={}))
    place = int(np.flatnonzero(np.random.default_rng(0).permutation(202) == 200)[0])
    x, y = numbers(data["run"]["frames"][0]["points"]).reshape(-1, 2)[place]
    assert y == 32767 and x == pytest.approx(0.75 * 32767, abs=1)
    assert data["lines"][0]["test_accuracy"] is None


def test_ten_epochs_of_ten_thousand_digits_take_six_megabytes_at_most():
    generator = np.random.default_rng(0)
    line = {"epoch": 1, "verdict": "", "separability": dict.fromkeys(("smallest_gap_degrees", "largest_gap_degrees"))}
    line |= dict.fromkeys(("train_loss", "test_loss", "train_accuracy", "test_accuracy"), 0.0)
    frames = [Frame(line, generator.normal(0, 9, (10_000, 2)), generator.normal(0, 1, (10, 2))) for _ in range(10)]
    run = Run("many", frames, np.arange(10_000) % 10, [*"0123456789"])
    noise = generator.integers(
        0, 256, (10_000, 14, 14, 1), np.uint8
    )  # compresses worse than digits, half of the pixels
    content = run_page(run, np.pad(noise, ((0, 0), (7, 7), (7, 7), (0, 0))), title="", command="", config={})
    assert len(content) <= 6_000_000


def test_long_runs_keep_their_first_and_last_epoch():
    assert spread([*range(500)], 5) == [0, 125, 250, 374, 499]
    assert spread([1, 2], 5) == [1, 2]


def test_a_configuration_is_flat():
    assert flat({"a": 1, "b": {"c": None, "d": [1, "x"]}}) == [("a", "1"), ("b.c", "None"), ("b.d", "1, x")]
