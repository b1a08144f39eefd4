"""Each page as a person has it: opened from the disk in Chromium, and every control used."""

import dataclasses

import numpy as np
import pytest

from experiments.page import Network, classifier_page, networks_page, run_page, variants_page

ORDER = np.random.default_rng(0).permutation(200)  # in which a page has its points


@pytest.fixture
def page(open_page, a_run, pictures):
    content = run_page(a_run, pictures, title="<b>four", command="python -m x --title '<b>'", config={"a": "<b>"})
    return open_page(content)


def wait_until(page, condition):
    """Playwright's own waiting evaluates strings in the page, which the page forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never: {condition}")


def shown(page):
    return page.evaluate("plane.shown.reduce((a, b) => a + b)")


def wrong_at(a_run, epoch):
    """Which points another class's direction is nearer to, in float64."""
    frame = a_run.frames[epoch - 1]
    return (frame.embeddings.astype(np.float64) @ frame.class_weights.T).argmax(axis=1) != a_run.labels


def test_the_slider_and_the_keys_move_through_the_epochs(page):
    epoch = page.locator("#epoch")
    assert epoch.inner_text() == "epoch 3" and "96.00 %" in page.locator("#now").inner_text()
    page.keyboard.press("Home")
    assert epoch.inner_text() == "epoch 1" and "70.00 %" in page.locator("#now").inner_text()
    page.keyboard.press("ArrowRight")
    assert epoch.inner_text() == "epoch 2" and page.locator("figcaption").first.inner_text().endswith("test 0.60")
    page.locator("#time").fill("0")
    assert epoch.inner_text() == "epoch 1"
    page.locator("#time").focus()
    page.keyboard.press("End")
    assert epoch.inner_text() == "epoch 3"
    page.locator("svg").first.click(position={"x": 60, "y": 40})
    assert epoch.inner_text() == "epoch 1"


def test_it_plays_and_pauses(page):
    page.locator("#speed").select_option("fast")
    page.locator("#play").click()
    assert "pause" in page.locator("#play").inner_text()
    wait_until(page, "!timeline.playing")
    assert page.locator("#epoch").inner_text() == "epoch 3" and "play" in page.locator("#play").inner_text()
    page.keyboard.press("Home")
    page.locator("#plane").focus()
    page.keyboard.press(" ")
    assert page.evaluate("timeline.playing")
    page.keyboard.press(" ")
    assert not page.evaluate("timeline.playing")


def test_classes_and_mistakes_are_chosen(page, a_run):
    assert shown(page) == 200
    page.locator("input[data-number='1']").uncheck()
    assert shown(page) == 150
    page.locator("#none").click()
    assert shown(page) == 0
    page.locator("#all").click()
    page.locator("#mistakes").check()
    for key, epoch in (("End", 3), ("Home", 1)):
        page.locator("#plane").focus()
        page.keyboard.press(key)
        assert shown(page) == wrong_at(a_run, epoch).sum()
    page.locator("#view-circle").check()
    page.locator("#marks-names").check()
    assert shown(page) == wrong_at(a_run, 1).sum()
    radii = page.evaluate(
        "[...plane.x].map((x, i) => plane.shown[i] ? Math.hypot(x / plane.canvas.width - 0.5, "
        "plane.y[i] / plane.canvas.width - 0.5) * 2.4 : 0.9)"
    )
    assert min(radii) > 0.85 and max(radii) < 1.0


@pytest.mark.parametrize("way", ["hover", "tap", "keys"])
def test_a_point_tells_its_picture_and_angles(open_page, a_run, pictures, way):
    content = run_page(a_run, pictures, title="four", command="", config={})
    page = open_page(
        content, **({"has_touch": True, "viewport": {"width": 390, "height": 800}} if way == "tap" else {})
    )
    page.locator("#mistakes").check()
    if way == "keys":
        page.locator("#plane").focus()
        page.keyboard.press("ArrowDown")
    else:
        number = page.evaluate("plane.shown.findIndex(Boolean)")
        x, y = page.evaluate(
            f"[plane.x[{number}], plane.y[{number}]].map(v => v * plane.canvas.clientWidth / plane.canvas.width)"
        )
        act = page.locator("#plane").hover if way == "hover" else page.locator("#plane").tap
        act(position={"x": x, "y": y})
    chosen = page.evaluate("plane.settings.selected")
    point = ORDER[chosen]
    frame = a_run.frames[-1]
    x, w = (
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in (frame.embeddings.astype(np.float64), frame.class_weights)
    )
    angles = np.degrees(np.arccos(np.clip(x[point] @ w.T, -1, 1)))
    own = a_run.labels[point]
    other = min((angle, c) for c, angle in enumerate(angles) if c != own)
    words = page.locator("#card").inner_text().split("\n")
    assert words[0] == f"class {a_run.classes[own]}"
    assert words[1] == f"predicted {a_run.classes[angles.argmin()]}: wrong"
    assert float(words[2].split("°")[0]) == pytest.approx(angles[own], abs=0.11)
    assert float(words[3].split("°")[0]) == pytest.approx(other[0], abs=0.11)
    assert f"from {a_run.classes[other[1]]}, the" in words[3]
    pixel = "[...thumbnail.getContext('2d').getImageData(14, 14, 1, 1).data].join()"
    wait_until(page, f"{pixel} === '{point},{point},{point},255'")  # once the sprite is decoded


def test_the_command_is_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    wait_until(page, "document.getElementById('copy').textContent === 'copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "python -m x --title '<b>'"
    page.locator("summary").click()
    assert page.locator("details td").inner_text() == "<b>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(open_page, a_run, pictures, scheme):
    content = run_page(a_run, pictures, title="a long title " * 9, command="x" * 300, config={"a": "y" * 300})
    page = open_page(content, viewport={"width": 360, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")


def test_variants_play_together(open_page, a_run):
    shorter = dataclasses.replace(a_run, name="short", frames=a_run.frames[:2], href="short/index.html")
    page = open_page(variants_page([a_run, shorter], title="two"))
    assert page.locator("section h2").all_inner_texts() == ["four", "short"]
    assert page.locator("section a").get_attribute("href") == "short/index.html"
    assert [words[:7] for words in page.locator("section .now").all_inner_texts()] == ["epoch 3", "epoch 2"]
    page.keyboard.press("Home")
    assert [words[:7] for words in page.locator("section .now").all_inner_texts()] == ["epoch 1", "epoch 1"]
    page.locator("#view").select_option("directions")
    assert page.evaluate("runs.map(run => run.plane.settings.view)") == ["circle", "circle"]


def test_a_confusion_s_cells_show_their_pictures(open_page):
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    probabilities = [generator.dirichlet(np.ones(3), 60) for _ in range(2)]
    lines = [
        {"epoch": e, "train_loss": 1 / e, "test_loss": 1 / e, "train_accuracy": 0.5, "test_accuracy": 0.4}
        for e in (1, 2)
    ]
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 28, 28, 1))
    content = classifier_page(
        lines, probabilities, labels, images, classes=["<b>", "b", "c"], title="three", command="", config={}
    )
    page = open_page(content)
    for key, of_epoch in (("End", probabilities[1]), ("Home", probabilities[0])):
        page.locator("h1").click()
        page.keyboard.press(key)
        predictions = of_epoch.argmax(axis=1)
        for label in range(3):
            for predicted in range(3):
                count = ((labels == label) & (predictions == predicted)).sum()
                assert page.locator(f"[data-cell='{label},{predicted}']").inner_text() == str(count)
    page.locator("[data-cell='0,1']").click()
    members = np.flatnonzero((labels == 0) & (predictions == 1))
    best = probabilities[0][members, 1].max()
    assert page.locator("#pictures h2").inner_text() == f"<b>, predicted b: {len(members)}"
    assert page.locator("#pictures figure").count() == len(members)
    assert page.locator("#pictures figcaption").first.inner_text() == f"{100 * best:.1f} %"


def test_networks_sort_by_every_column(open_page):
    networks = [
        Network("b<i>", 300, 1.5, 0.91, 0.92, 12.0, 800.0, (0.8, 0.92, 0.91), "b/index.html"),
        Network("a", 20, 9.25, 0.95, 0.95, 3.0, 10.5, (0.95,)),
        Network("c", 1000, 0.5, 0.2, 0.99, 7.0, 90.0, (0.99, 0.2)),
    ]
    page = open_page(networks_page(networks, title="three", note="on drawn faces"))
    firsts = page.locator("#networks tbody td:first-child")
    assert firsts.all_inner_texts() == ["c", "a", "b<i>"]
    for key in (
        "name",
        "parameters",
        "megabytes",
        "last_accuracy",
        "best_accuracy",
        "seconds_per_epoch",
        "images_per_second",
    ):
        wanted = [n.name for n in sorted(networks, key=lambda n: getattr(n, key), reverse=True)]
        button = page.locator(f"[data-key='{key}']")
        button.click()
        if page.locator("th[aria-sort=descending]").count() == 0:
            button.click()
        assert firsts.all_inner_texts() == wanted
        button.click()
        assert firsts.all_inner_texts() == wanted[::-1]
        assert page.locator("th[aria-sort=ascending]").inner_text() == button.inner_text()
