"""Measurements run, measure what they say, and refuse what they do not know."""

import pytest

from experiments.bench.cases import cases
from experiments.bench.epoch import EpochCost
from experiments.bench.step import Inference, Step
from experiments.terminal import UserError


@pytest.mark.parametrize("measurement", [Step, Inference], ids=lambda kind: kind.__name__)
def test_contenders_are_timed_in_processes_of_their_own(measurement, capsys):
    result = measurement(variants=("v0",), rounds=2).measure()
    row = result["rows"][0]
    assert row["name"] == "v0" and len(row["jaxnets"]["seconds"]) == 2
    assert 0 < row["jaxnets"]["median_seconds"] < 60 and row["jaxnets"]["compile_seconds"] > 0
    # v0's largest activation, 256 images of 26×26×16, is 11 MiB in training, and needs to be held at least once.
    assert row["jaxnets"]["peak_bytes"] > 11 * 2**20
    assert "v0" in capsys.readouterr().out


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="nothing called 'v9'"):
        cases(("v9",))


def test_all_are_the_variants():
    assert len(cases(("all",))) == 12


def test_an_epoch_is_timed_three_ways(capsys):
    result = EpochCost(variant="v0", steps=2, rounds=1).measure()
    assert [row["way"] for row in result["rows"]] == ["steps alone", "train_epoch", "one scan"]
    assert all(row["median_seconds"] > 0 for row in result["rows"])
    assert "2 steps of v0" in capsys.readouterr().out
