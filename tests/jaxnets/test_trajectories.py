"""Twenty optimiser steps of every variant are PyTorch's: weights, batches, StepLR and the short last batch alike.

The batches are small, and the learning rates in proportion: see the script that makes the fixture, for what is chaotic
otherwise, in PyTorch too.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.fixtures import make_torch_trajectories as trajectories


def of_pytorch(case, dtype):
    prefix = f"{case}/{dtype}/"
    with np.load(trajectories.OUT) as arrays:
        return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def check_float32(ours, theirs):
    worst = trajectories.errors(ours, theirs)
    assert worst["losses"] < 1e-4 and worst["statistics"] < 1e-4 and worst["weights"] < 1e-3, worst


QUICK = ("v0", "v1_2_3")  # Adam; SGD


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if str(case) in QUICK else pytest.mark.slow) for case in trajectories.FIXED],
    ids=str,
)
def test_in_float32(case):
    ours = trajectories.kept(trajectories.jaxnets_trajectory(trajectories.in_fixture(case), "float32"))
    check_float32(ours, of_pytorch(case, "float32"))


def float64_errors(how, cases):
    """In a process of its own, since JAX decides once and for all whether it has float64."""
    ended = subprocess.run(
        [sys.executable, trajectories.__file__, how, *map(str, cases)],
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def check_float64(found, cases):
    assert found.keys() == {str(case) for case in cases}
    for name, worst in found.items():
        assert worst.keys() == {"losses", "statistics", "weights"} and max(worst.values()) < 1e-9, (name, worst)


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_in_float64(half):
    cases = trajectories.THIN[half::2]
    check_float64(float64_errors("compare", cases), cases)


@pytest.mark.slow
@pytest.mark.parametrize("case", trajectories.FULL, ids=str)
def test_full_networks_in_float64_against_a_live_pytorch(case):
    pytest.importorskip("torch")
    check_float64(float64_errors("compare-live", [case]), [case])


@pytest.mark.slow
@pytest.mark.parametrize("case", trajectories.FULL, ids=str)
def test_full_networks_in_float32_against_a_live_pytorch(case):
    pytest.importorskip("torch")
    slower = trajectories.calm(case)
    if slower is None:
        pytest.skip("PyTorch's own float32 leaves its float64, if convolutions are off by 1e-6")
    check_float32(trajectories.jaxnets_trajectory(slower, "float32"), trajectories.torch_trajectory(slower, "float32"))
