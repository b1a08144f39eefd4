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
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kernels.margin_softmax import HardNegatives, margin_softmax, reference, streamed
from kernels.margin_softmax.hopper_plan import SHARED_MEMORY, HopperPlan
from kernels.margin_softmax.pallas_gpu import LONGEST, OLDEST_JAX, PallasGpu, _shift
from kernels.varying import vary_alike

F32, BF16 = jnp.float32, jnp.bfloat16

# N, C, D, K sub-centres (0: none), t of hard negatives (0: none), scale, dtypes, dZ numbers a chunk, blocks at once
CASES = {
    "ragged": (130, 300, 100, 0, 0.0, 64.0, (BF16, BF16), 2**26, 2),
    "ragged, in parts": (130, 300, 100, 0, 0.0, 64.0, (F32, F32), 2**26, 2),
    "in chunks, several turns": (5, 700, 64, 0, 0.0, 30.0, (BF16, F32), 128 * 512, 1),
    "no common shift": (5, 130, 64, 0, 0.0, 200.0, (BF16, BF16), 2**26, 4),
    "hard": (5, 200, 64, 0, 0.4, 30.0, (F32, BF16), 2**26, 4),
    "sub-centres, hard": (5, 150, 512, 3, 0.4, 30.0, (BF16, BF16), 2**26, 1),
    "long": (130, 300, 1000, 0, 0.0, 64.0, (BF16, BF16), 2**26, 2),
    "long, in parts, sub-centres, hard": (5, 150, 600, 3, 0.4, 30.0, (F32, F32), 2**26, 1),
    "longest": (1, 2, 4096, 0, 0.0, 64.0, (BF16, F32), 2**26, 4),
    "smallest": (1, 2, 2, 0, 0.0, 10.0, (BF16, BF16), 2**26, 4),
}
FIXED = {"multiprocessors": 132, "is_hard": False, "known_scale": None, "shift": 0.0, "interpret": None}


def _margin(cos_theta, sin_theta):
    """cos(θ + 0.5)."""
    return 0.8775825618903728 * cos_theta - 0.479425538604203 * sin_theta


def _errors(case):
    """Of the loss, and of both gradients relative to their norm."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    n, c, d, k, t, scale, dtypes, numbers, multiprocessors = CASES[case]
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(n, d)), rng.normal(size=(c, k, d) if k else (c, d))
    arrays = [jnp.asarray(v, dtype) for v, dtype in zip((x, w), dtypes, strict=True)]
    labels = rng.integers(0, c, n).astype(np.int32)
    labels[-1] = c - 1
    g = rng.normal(size=n)  # of both signs, which the kernel never sees
    hard = HardNegatives(t, threshold=_margin) if t else None

    def gradients(loss, x, w):
        def total(x, w):
            losses = loss(x, w, labels, margin=_margin, scale=scale, hard_negatives=hard)
            return (losses * jnp.asarray(g, losses.dtype)).sum(), losses

        (_, losses), both = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, w)
        return [np.asarray(array, np.float64) for array in (losses, *both)]

    interpret = plgpu.InterpretGPUParams(detect_races=True, on_race="raise")
    gpu = PallasGpu(numbers=numbers, multiprocessors=multiprocessors, interpret=interpret)
    got = gradients(partial(streamed.margin_softmax, gpu), *arrays)
    with jax.enable_x64(True):
        want = gradients(reference.margin_softmax, *(jnp.asarray(np.asarray(array, np.float64)) for array in arrays))
    error = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got[1:], want[1:], strict=True)]
    return float(np.abs(got[0] - want[0]).max()), *error


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < OLDEST_JAX, reason="Mosaic GPU is interpreted from JAX 0.11 on")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreted_against_the_definition_in_float64(case):
    """A race is an error of the process. A loss is off by a few ulp of s, and by s times what parts leave out of a
    cosine: 2⁻¹⁷ for one float32 array, 2⁻¹⁵ for two (see pallas_gpu).

    So are, relatively, the gradients of the products; of bfloat16 arrays these are rounded by 2⁻⁸, number by number. A
    gradient is a sum of those, so that its norm is off by 2⁻⁸ where all err alike. In bfloat16 it is rounded itself.
    """
    loss, dx, dw = json.loads(_interpreted([__file__, case]).splitlines()[-1])
    _, _, d, _, t, scale, dtypes, _, _ = CASES[case]
    of_loss = 4 * scale * np.finfo(np.float32).eps * np.sqrt(d) + 1e-6
    of_loss += scale * (abs(t) + 2 if t else 1) * {0: 0, 1: 2**-17, 2: 2**-15}[dtypes.count(F32)]
    assert loss <= of_loss
    for error, dtype in zip((dx, dw), dtypes, strict=True):
        rounded = (F32 not in dtypes) + (dtype == BF16)
        assert error <= rounded * 2**-8 + of_loss


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < OLDEST_JAX, reason="Mosaic GPU is interpreted from JAX 0.11 on")
@pytest.mark.parametrize(
    ("files", "more"),
    [(("contract_inputs", "contract_misfits"), ("--one-of-each", "0")), (("contract",), ())],
    ids=["inputs", "values"],
)
def test_the_contract_interpreted(files, more):
    """All that the contract asks of the others, of inputs with one dtype each: more pairs of dtypes are in CASES.

    The interpreter multiplies with NumPy, which warns of the overflows that become NaN.
    """
    contract = [str(Path(__file__).with_name(f"test_{file}.py")) for file in files]
    options = ["--interpreted", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore:overflow encountered in matmul"]
    _interpreted(["-m", "pytest", *options, *more, *contract])


def _interpreted(arguments):
    """What Python says, given these, in a process with threads enough."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"NPROC": "16", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("num_centers", [1, 3])
@pytest.mark.parametrize("parts", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_every_length_has_two_buffers_a_warpgroup(parts, num_centers, backward):
    """With fewer, one warpgroup waits for the buffer that it holds itself. A buffer has what a step multiplies."""
    for length in range(64, LONGEST + 1, 64):
        plan = HopperPlan(4096, *parts, length, 16384, num_centers, 16384, backward=backward, **FIXED)
        in_rings = 2 * plan.stages * plan.tile * 64 * 2
        assert plan.stages >= 2 and plan.x_buffers * 128 * 64 * 2 + in_rings <= SHARED_MEMORY
        assert plan.keeps_x or plan.x_buffers == 2 * plan.stages


def test_steps_multiply_all_parts_but_two_rests():
    for (x_parts, w_parts), pairs in [
        ((1, 1), [(0, 0)]),
        ((2, 1), [(0, 0), (1, 0)]),
        ((1, 2), [(0, 0), (0, 1)]),
        ((2, 2), [(0, 0), (0, 1), (1, 0)]),
    ]:
        plan = HopperPlan(128, x_parts, w_parts, 128, 256, 1, 256, backward=False, **FIXED)
        steps = [[tuple(map(int, of)) for of in plan.operands(step)] for step in range(plan.steps)]
        assert steps == [[(of_x, column), (of_w, column)] for of_x, of_w in pairs for column in range(2)]


def test_blocks_cover_all_classes():
    for num_rows in (128, 4096, 128 * 200):
        for num_classes in (1, 128, 129, 1000, 10**7):
            plan = HopperPlan(num_rows, 1, 1, 512, num_classes, 1, num_classes, backward=False, **FIXED)
            covered = plan.splits * plan.turns * 2 * 128
            assert covered >= num_classes and covered - plan.turns * 2 * 128 < num_classes


@pytest.mark.skipif(jax.__version_info__ < OLDEST_JAX, reason="Mosaic GPU is taken from JAX 0.11 on")
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "dtype"),
    [
        ((500, 100), (10_007, 100), BF16),
        pytest.param((512, 512), (100_000, 512), F32, marks=pytest.mark.slow),
        pytest.param((512, 4096), (3000, 3, 4096), BF16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_lowers_for_cuda_within_shard_map(x_shape, w_shape, dtype):
    """Pallas checks shapes, layouts and operations; registers and shared memory only ptxas knows, see aot.py."""
    rows = PartitionSpec("rows")
    mesh = Mesh(jax.devices()[:2], ("rows",))

    def shard(x, w, labels):
        x, w = vary_alike(x, w)
        losses = streamed.margin_softmax(PallasGpu(), x, w, labels, margin=_margin, scale=64.0)
        return jax.lax.psum(losses.sum(), "rows")

    total = jax.shard_map(shard, mesh=mesh, in_specs=(rows, PartitionSpec(), rows), out_specs=PartitionSpec())
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in (x_shape, w_shape)]
    labels = jax.ShapeDtypeStruct(x_shape[:1], jnp.int32)
    traced = jax.jit(jax.value_and_grad(total, (0, 1))).trace(*arrays, labels)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "margin_softmax_sums" in text and "margin_softmax_gradients" in text


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
    with pytest.raises(NotImplementedError, match="of length 4096 at most, not 4097"):
        serve(jnp.bfloat16, 4097)


def test_compiling_ahead_says_what_it_lacks():
    if jax.__version_info__ >= OLDEST_JAX and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("it lacks nothing, and takes minutes")
    done = subprocess.run([sys.executable, "-m", "kernels.margin_softmax.aot"], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines()[-1].startswith("kernels.margin_softmax.aot cannot compile for a GPU: ")


if __name__ == "__main__":
    print(json.dumps(_errors(sys.argv[1])))
