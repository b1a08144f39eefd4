"""Figures of long runs, and the words in them."""

import subprocess
import sys

import pytest

from experiments.mynn.drawings import title_of

# Draws a run of so many epochs from what its folder keeps, and prints the most memory it held, in MiB.
DRAW = """
import resource, sys
from pathlib import Path
import numpy as np
from experiments.arcloss.drawings import draw_run
from experiments.arcloss.variants import VARIANTS
from experiments.run.folder import Folder
from experiments.run.stored import NUMBERS
from jaxnets import Dataset, Split

epochs, folder, rng = int(sys.argv[1]), Folder(Path(sys.argv[2])), np.random.default_rng(0)
split = Split(np.zeros((100, 28, 28, 1), np.uint8), np.arange(100, dtype=np.int32) % 10)
folder.claim({"seed": 0}, "a command", fresh=False)
gaps = {"smallest_gap_degrees": 20.0, "largest_gap_degrees": 40.0}
lines = []
for epoch in range(1, epochs + 1):
    lines.append({"epoch": epoch, **dict.fromkeys(NUMBERS, 0.5), "verdict": "separated", "separability": gaps})
    embeddings, weights = (rng.normal(size=size).astype(np.float32) for size in ((100, 2), (10, 2)))
    folder.keep(lines, {"embeddings": embeddings, "class_weights": weights})
draw_run(VARIANTS["v0"], Dataset(split, split, tuple("0123456789"), "mnist"), 0.3)(folder, lines)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_epochs(tmp_path):
    held = []
    for epochs in (20, 300):
        argv = [sys.executable, "-c", DRAW, str(epochs), tmp_path / str(epochs)]
        drawn = subprocess.run(argv, capture_output=True, text=True)
        assert drawn.returncode == 0, drawn.stderr
        held.append(int(drawn.stdout))
    assert held[1] - held[0] < 100, held


@pytest.mark.parametrize(
    ("data", "title"),
    [
        ("faces", "drawn faces, not photographs"),
        ("folder:/a/long/way/to/photographs/", "photographs"),
        ("tfds:celeb_a", "tfds:celeb_a"),
    ],
)
def test_what_the_data_are_called_in_pictures(data, title):
    assert title_of(data) == title
