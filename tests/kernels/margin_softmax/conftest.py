"""The contract's tests run for each implementation."""

from functools import partial
from typing import get_args

import pytest

from kernels.margin_softmax import Implementation, api, streamed
from kernels.margin_softmax.pallas_gpu import PallasGpu

# Those for GPUs and TPUs are interpreted here, which takes long. The one for GPUs also needs the threads that
# test_pallas_gpu.py gives it, so only `--interpreted` asks for it; for TPUs see test_pallas_tpu.py.
ON_EVERY_PLATFORM = [name for name in get_args(Implementation) if not name.startswith("pallas")]


def pytest_generate_tests(metafunc):
    if "implementation" in metafunc.fixturenames:
        interpreted = metafunc.config.getoption("--interpreted")
        metafunc.parametrize("implementation", ["pallas_gpu"] if interpreted else ON_EVERY_PLATFORM)


@pytest.fixture(autouse=True)
def _interpret(request, monkeypatch):
    if request.config.getoption("--interpreted"):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        gpu = PallasGpu(interpret=plgpu.InterpretGPUParams(detect_races=True, on_race="raise"))
        monkeypatch.setitem(api._IMPLEMENTATIONS, "pallas_gpu", partial(streamed.margin_softmax, gpu))
