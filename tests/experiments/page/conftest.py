import os
import shutil

import numpy as np
import pytest

from experiments.page import Frame, Run

HOSTILE = [
    "</script><script>window.struck = 1</script>",
    "<img src=x onerror='window.struck = 1'>",
    "Ångström & ~",
    "d",
]
QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, where there is one."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        pytest.skip("no Chromium: the pages are not tried in a browser")
    playwright = pytest.importorskip("playwright.sync_api")
    as_root = ["--no-sandbox"] if os.getuid() == 0 else []
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=binary, args=[*QUIET, *as_root])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a document from the disk; afterwards the console must be silent, and nothing else asked for."""
    said, asked, contexts = [], [], []

    def open_document(content, **options):
        file = tmp_path / "index.html"
        file.write_bytes(content)
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.locator("h1").count() == 1
        assert page.evaluate("window.struck") is None
        return page

    yield open_document
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


@pytest.fixture(scope="session")
def a_run():
    """Four classes on their axes, of fifty points each; from epoch to epoch fewer of them lie at another's axis."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    axes = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    frames = []
    for epoch, wrong in enumerate((60, 30, 8), 1):
        places = labels.copy()
        moved = generator.permutation(200)[:wrong]
        places[moved] = (labels[moved] + 1) % 4
        points = axes[places] * generator.uniform(5, 20, (200, 1)) + generator.normal(0, 0.3, (200, 2))
        line = {
            "epoch": epoch,
            "train_loss": 1.0 / epoch,
            "test_loss": 1.2 / epoch,
            "train_accuracy": 0.9,
            "test_accuracy": 1 - wrong / 200,
            "verdict": "separated",
            "separability": {"smallest_gap_degrees": 80.0 + epoch, "largest_gap_degrees": 99.0},
        }
        frames.append(Frame(line, points.astype(np.float32), axes.astype(np.float32)))
    return Run("four", frames, labels, HOSTILE, said="clearly separated")


@pytest.fixture(scope="session")
def pictures():
    """As many as there are points, each of one brightness."""
    return np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 28, 28, 1))
