"""The Hopper kernel, interpreted on the CPU: python -m pytest tests/kernels/margin_softmax/test_pallas_gpu.py

The interpreter runs each warpgroup in a thread of its own, which on a machine of few cores may wait for each other
without end if XLA's pool has no thread left. So it runs in a process of its own, whose pool is large (NPROC).
"""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.margin_softmax import HardNegatives, margin_softmax, reference, streamed
from kernels.margin_softmax.hopper_plan import SHARED_MEMORY, Plan
from kernels.margin_softmax.pallas_gpu import LONGEST, OLDEST_JAX, PallasGpu, _shift

# N, C, D, K sub-centres (0: none), t of hard negatives (0: none), scale, dZ numbers a chunk, blocks at once
CASES = {
    "ragged": (130, 300, 100, 0, 0.0, 64.0, 2**26, 2),
    "in chunks, several turns": (5, 700, 64, 0, 0.0, 30.0, 128 * 512, 1),
    "no common shift": (5, 130, 64, 0, 0.0, 200.0, 2**26, 4),
    "hard": (5, 200, 64, 0, 0.4, 30.0, 2**26, 4),
    "sub-centres, hard": (5, 150, 512, 3, 0.4, 30.0, 2**26, 1),
    "smallest": (1, 2, 2, 0, 0.0, 10.0, 2**26, 4),
}


def _margin(cos_theta, sin_theta):
    """cos(θ + 0.5)."""
    return 0.8775825618903728 * cos_theta - 0.479425538604203 * sin_theta


def _errors(case):
    """Of the loss, and of both gradients relative to their norm. Inputs are float32, of bfloat16's precision."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    n, c, d, k, t, scale, numbers, multiprocessors = CASES[case]
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(n, d)), rng.normal(size=(c, k, d) if k else (c, d))
    x, w = (np.asarray(jnp.asarray(v, jnp.bfloat16), np.float64) for v in (x, w))
    labels = rng.integers(0, c, n).astype(np.int32)
    labels[-1] = c - 1
    g = rng.normal(size=n)  # of both signs, which the kernel never sees
    hard = HardNegatives(t, threshold=_margin) if t else None

    def gradients(loss, dtype):
        def total(x, w):
            losses = loss(x, w, labels, margin=_margin, scale=scale, hard_negatives=hard)
            return (losses * jnp.asarray(g, dtype)).sum(), losses

        (_, losses), both = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(*(v.astype(dtype) for v in (x, w)))
        return [np.asarray(array, np.float64) for array in (losses, *both)]

    interpret = plgpu.InterpretGPUParams(detect_races=True, on_race="raise")
    gpu = PallasGpu(numbers=numbers, multiprocessors=multiprocessors, interpret=interpret)
    got = gradients(partial(streamed.margin_softmax, gpu), np.float32)
    with jax.enable_x64(True):
        want = gradients(reference.margin_softmax, np.float64)
    error = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got[1:], want[1:], strict=True)]
    return float(np.abs(got[0] - want[0]).max()), *error


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < OLDEST_JAX, reason="Mosaic GPU is interpreted from JAX 0.11 on")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreted_against_the_definition_in_float64(case):
    """Products are exact, sums in float32: a loss is off by a few ulp of s. dZ is rounded to 2⁻⁹, number by number.

    A gradient is a sum of those, so that its norm is off by 2⁻⁹ where all err alike; what the projection takes away
    may leave twice as much of it. A race is an error of the process.
    """
    environment = {**os.environ, "NPROC": "16", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, __file__, case]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    loss, dx, dw = json.loads(done.stdout.splitlines()[-1])
    _, _, d, _, _, scale, _, _ = CASES[case]
    assert loss <= 4 * scale * np.finfo(np.float32).eps * np.sqrt(d) + 1e-6
    assert max(dx, dw) <= 2**-8


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("num_centers", [1, 3])
def test_every_length_has_two_buffers_a_warpgroup(num_centers, backward):
    """With fewer, one warpgroup waits for the buffer that it holds itself."""
    for length in range(64, LONGEST + 1, 64):
        fixed = {"scale": 64.0, "is_hard": False, "shift": 0.0, "multiprocessors": 132, "interpret": None}
        plan = Plan(4096, length, 16384, num_centers, 16384, backward=backward, **fixed)
        in_rings = 2 * plan.stages * plan.tile * 64 * 2
        assert plan.stages >= 2 and 128 * length * 2 + in_rings <= SHARED_MEMORY


def test_blocks_cover_all_classes():
    fixed = {"scale": 64.0, "is_hard": False, "shift": 0.0, "interpret": None, "backward": False}
    for num_rows in (128, 4096, 128 * 200):
        for num_classes in (1, 128, 129, 1000, 10**7):
            plan = Plan(num_rows, 512, num_classes, 1, num_classes, multiprocessors=132, **fixed)
            covered = plan.splits * plan.turns * 2 * 128
            assert covered >= num_classes and covered - plan.turns * 2 * 128 < num_classes


@pytest.mark.parametrize("scale", [1.0, 64.0, 80.0, 200.0])
def test_a_common_shift_keeps_every_sum_a_normal_number(scale):
    """From one class at cos θ = −1 to ten million at 1; there is none for a scale whose range is wider."""
    shift = _shift(scale, 10**7)
    assert (shift is None) == (scale > 78)
    if shift is not None:
        smallest, largest = -scale / np.log(2) - shift, (scale + np.log(1e7)) / np.log(2) - shift
        assert smallest >= np.log2(np.finfo(np.float32).tiny) and largest < 128


def test_it_is_refused_by_name_where_there_is_no_hopper_gpu():
    x, w = jnp.ones((2, 4), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match=r"runs on Hopper GPUs alone"):
        margin_softmax(x, w, jnp.array([0, 1]), margin=_margin, scale=1.0, implementation="pallas_gpu")


def test_what_it_cannot_serve_is_refused():
    def serve(dtype, length):
        x, w = jnp.ones((2, length), dtype), jnp.ones((3, length), dtype)
        return streamed.margin_softmax(PallasGpu(), x, w, jnp.array([0, 1]), margin=_margin, scale=1.0)

    if jax.__version_info__ < OLDEST_JAX:
        with pytest.raises(NotImplementedError, match=r"takes JAX 0.11 or later, not"):
            serve(jnp.bfloat16, 8)
        return
    with pytest.raises(NotImplementedError, match="takes float32 and bfloat16, not float16"):
        serve(jnp.float16, 8)
    with pytest.raises(NotImplementedError, match="of length 640 at most, not 641"):
        serve(jnp.bfloat16, 641)


def test_compiling_ahead_says_what_it_lacks():
    if jax.__version_info__ >= OLDEST_JAX and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("it lacks nothing, and takes minutes")
    done = subprocess.run([sys.executable, "-m", "kernels.margin_softmax.aot"], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith("kernels.margin_softmax.aot cannot compile for a GPU: ")


if __name__ == "__main__":
    print(json.dumps(_errors(sys.argv[1])))
