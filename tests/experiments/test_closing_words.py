"""The last words of a run of the ArcLoss study."""

from pathlib import Path

import pytest

from experiments.arcloss.drawings import closing_words


@pytest.mark.parametrize("verdict", ["collapsed", "separated"])
def test_a_collapse_is_explained(verdict):
    numbers = {"directions_in_use": 1, "num_classes": 10, "smallest_gap_degrees": 0.0, "largest_gap_degrees": 271.0}
    last = {"test_accuracy": 0.1, "separability": numbers}
    summary = {"verdict": verdict, "epochs": 3, "last": last, "best": {"epoch": 1, "test_accuracy": 0.17}}
    said = closing_words(Path("runs"), summary)
    assert said.startswith(f"{verdict}: test accuracy 0.1000 after 3 epochs (best 0.1700 after 1)")
    assert ("only 1 of 10 directions are in use: try a smaller --s or --m" in said) == (verdict == "collapsed")
