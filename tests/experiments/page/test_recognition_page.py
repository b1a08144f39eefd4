"""The page of a run of recognition: its numbers, by hand from the embeddings; and every control in a browser."""

import itertools

import numpy as np
import pytest

from experiments.page import Figure, Judged, margins_page, recognition_page
from jaxnets.recognition import verification
from tests.experiments.page.packed import data_of, numbers

N, K = 60, 3
LABELS = np.arange(N, dtype=np.int32) // 4
QUERIES = np.array([7, 1, 40, 9])
HOSTILE = "<img src=x onerror='window.struck = 1'>"


def embeddings_of(epoch):
    """From epoch to epoch more of the identity, and less noise."""
    rng = np.random.default_rng(epoch)
    return (rng.normal(size=(N // 4, 8))[LABELS] * epoch + rng.normal(size=(N, 8))).astype(np.float32)


def cosines_of(embeddings):
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return unit @ unit.T


def judged(epoch):
    embeddings = embeddings_of(epoch)
    cosines = cosines_of(embeddings)[QUERIES]
    cosines[np.arange(len(QUERIES)), QUERIES] = -2
    found = np.argsort(-cosines, axis=1)[:, :K]
    made = [
        Figure("precision@1", 0.25 * epoch, 0.1, 0.9),
        Figure("MAP@R", 0.2 * epoch),
        Figure("TAR at FAR 1e-3", None, note="too few pairs"),
    ]
    roc = verification(embeddings, LABELS, bootstrap=None).roc
    return Judged(
        {"epoch": epoch, "train_loss": 1 / epoch}, made, roc, found, np.take_along_axis(cosines, found, axis=1)
    )


@pytest.fixture(scope="module")
def content():
    images = np.broadcast_to(np.arange(N, dtype=np.uint8)[:, None, None, None], (N, 28, 28, 1))
    return recognition_page(
        [judged(1), judged(2), judged(3)],
        {"drawn": QUERIES[:3], "surest": QUERIES[3:], "none": QUERIES[:0]},
        LABELS,
        images,
        smallest_far=10 / 1680,
        names=[HOSTILE, *map(str, range(1, N // 4))],
        said="a set",
        title="<b>run",
        command="python -m x",
        config={"a": 1},
    )


def pairs_of(epoch):
    cosines = cosines_of(embeddings_of(epoch))
    of = {True: [], False: []}
    for i, j in itertools.combinations(range(N), 2):
        of[bool(LABELS[i] == LABELS[j])].append(cosines[i, j])
    return np.array(of[True]), np.array(of[False])


@pytest.mark.parametrize("epoch", [1, 3])
def test_the_curves_are_those_of_all_pairs(content, epoch):
    data, (genuine, impostor) = data_of(content), pairs_of(epoch)
    rates, roc = np.array(data["rates"]), data["roc"][epoch - 1]
    assert rates[0] == pytest.approx(10 / 1680) and rates[-1] == 1 and len(rates) == 81
    for rate, tar, threshold in zip(rates, numbers(roc["tar"]), numbers(roc["thresholds"]), strict=True):
        allowed = int(rate * len(impostor) + 1e-9)
        # Accepted is what lies above the first impostor pair that is one too many.
        first_too_many = np.sort(impostor)[::-1][allowed] if allowed < len(impostor) else -1.0
        assert tar / 65535 == pytest.approx((genuine > first_too_many).mean(), abs=1e-4)
        assert threshold / 32767 >= first_too_many - 1e-4
    for name, cosines in (("genuine", genuine), ("impostor", impostor)):
        shares = numbers(data["pairs"][epoch - 1][name])
        want, _ = np.histogram(cosines, np.linspace(-1, 1, 101))
        np.testing.assert_allclose(shares, want / len(cosines), atol=1e-6)


def test_the_neighbours_keep_their_pictures_and_names(content):
    data = data_of(content)
    names, identities = data["names"], numbers(data["identities"])
    numbered = [HOSTILE if label == 0 else str(label) for label in range(N // 4)]
    for epoch in (1, 2, 3):
        found = numbers(data["found"][epoch - 1]).reshape(-1, K)
        want = judged(epoch)
        assert [[names[n] for n in row] for row in found] == [[numbered[LABELS[i]] for i in row] for row in want.found]
        np.testing.assert_allclose(numbers(data["cosines"][epoch - 1]) / 32767, want.cosines.ravel(), atol=1e-4)
        asked = numbers(data["queries"])
        is_match = identities[found] == identities[asked][:, None]
        np.testing.assert_array_equal(is_match, LABELS[want.found] == LABELS[QUERIES][:, None])


def test_every_control(open_page, content):
    page = open_page(content)
    assert page.locator("h1").inner_text() == "<b>run"
    assert page.locator("#now").inner_text() == "a set: precision@1 75.00 % · MAP@R 60.00 %"
    assert page.locator(".query").count() == 3 and page.locator(".query").first.locator("figure").count() == 1 + K
    marks = [text[0] for text in page.locator(".query").first.locator("figcaption").all_inner_texts()[1:]]
    assert marks == ["✓" if same else "✗" for same in LABELS[judged(3).found[0]] == LABELS[QUERIES[0]]]
    page.keyboard.press("Home")
    assert (
        page.locator("#epoch").inner_text() == "epoch 1" and "precision@1 25.00 %" in page.locator("#now").inner_text()
    )
    cosine = page.locator(".query").first.locator("figcaption").nth(1).inner_text()
    assert cosine[2:].startswith(f"{judged(1).cosines[0, 0]:.2f}")
    page.locator("#group-1").check()
    assert page.locator(".query").count() == 1 and page.locator("#group-2").is_disabled()
    assert page.locator("#figures tr").all_inner_texts()[2].split("\t")[1:] == ["–", "too few pairs"]
    page.locator("#rate").focus()
    page.keyboard.press("End")
    said = page.locator("figcaption", has_text="genuine pairs are accepted").inner_text()
    assert said.endswith("false acceptance rate 1: 100.00 % of genuine pairs are accepted")
    page.locator("#play").click()
    assert page.evaluate("timeline.playing")


def test_margins_sort_and_miss_a_figure(open_page):
    rows = [
        {"name": "a", "scale": 64.0, "curve": [0.1, 0.3], "href": "a/index.html", "MAP@R": 0.3, "TAR": None},
        {"name": "b", "scale": 3.5, "curve": [0.4], "href": "b/index.html", "MAP@R": 0.4, "TAR": 0.5},
    ]
    page = open_page(margins_page(rows, ["MAP@R", "TAR"], title="two", note="on a set"))
    assert page.locator("#networks tbody tr").all_inner_texts() == ["b\t3.5\t40.00 %\t50.00 %", "a\t64\t30.00 %\t–"]
    page.locator("[data-key=scale]").click()
    assert page.locator("#networks tbody td:first-child").all_inner_texts() == ["a", "b"]
    assert "MAP@R" in page.locator("figcaption").inner_text()
