"""One contender of a benchmark in a process of its own: gets ready, then does its task for each line on its input.

    python -m experiments.bench.worker jaxnets step '{"name": "v1_2_3", "batch_size": 256, "size": 28, "channels": 1}'

Prints a line of JSON when it is ready, for each time, and at the end of the input.
"""

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.cases import Case
from experiments.variants import VARIANTS, Sgd, Variant

MARGIN_M, SCALE = 0.3, 3.107
NUM_EMBEDDED = 10_000

# Mynn's study names no optimiser: a comparison of speed takes the ArcLoss study's.
_MYNN = Variant("mynn", "", "", net=Sgd(1e-2, momentum=0.9), batch_size=64)

Task = Callable[[], Any]


def recipe(case: Case) -> Variant:
    return VARIANTS.get(case.name, _MYNN)


def batch_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (case.batch_size, case.size, case.size, case.channels), dtype=np.uint8)
    return images, rng.integers(0, 2, case.batch_size).astype(np.int32)


def jaxnets_inputs(case: Case) -> tuple[Any, Any]:
    """A fresh state and a batch on the device."""
    from experiments.session import keep_freed_memory

    keep_freed_memory()  # as every command of this project does
    import jax

    from experiments.arcloss import build_optimizer
    from jaxnets import ArcFace, MarginHead, ScoresHead, Split, create, create_train_state

    images, labels = batch_of(case)
    state = create_train_state(
        jax.random.key(0),
        create(case.name),
        MarginHead(10, ArcFace(MARGIN_M), SCALE) if case.name in VARIANTS else ScoresHead(),
        images,
        net_optimizer=build_optimizer(recipe(case).net, 235)[0],
        head_optimizer=build_optimizer(recipe(case).head, 235)[0],
    )
    return state, jax.device_put(Split(images, labels))


def jaxnets_task(case: Case, task: str) -> tuple[Task, float]:
    """What is timed, and the seconds that its tracing and compilation took."""
    state, batch = jaxnets_inputs(case)
    import jax

    from jaxnets import eval_step, quick_compilation, train_step

    before = time.perf_counter()
    if task == "inference":
        embed = jax.jit(eval_step).lower(state, batch).compile()
        compile_seconds = time.perf_counter() - before

        def embed_all() -> None:
            outputs: list[Any] = []
            for _ in range(-(-NUM_EMBEDDED // case.batch_size)):
                outputs.append(embed(state, batch).embeddings)
                jax.block_until_ready(outputs[-2:-1])  # as `jaxnets.evaluate` does
            jax.block_until_ready(outputs)

        return embed_all, compile_seconds
    step = jax.jit(train_step, donate_argnums=0, compiler_options=quick_compilation()).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - before

    def take() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return take, compile_seconds


def torch_task(case: Case, task: str, *, compiled: bool) -> tuple[Task, float]:
    """As `jaxnets_task`; what `torch.compile` takes is what its first call takes."""
    import torch

    from experiments.torch_peer import Step
    from jaxnets import ArcFace

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("highest")
    images, labels = batch_of(case)
    x = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    y = torch.tensor(labels, device=device, dtype=torch.long)
    step = Step(recipe(case), ArcFace(MARGIN_M), SCALE, device=device, compiled=compiled)

    def floats() -> torch.Tensor:
        return (x.float() / 255).contiguous(memory_format=torch.channels_last)

    def take() -> None:
        step(floats(), y).item()

    def embed_all() -> None:
        step.net.eval()
        with torch.inference_mode():
            outputs = [step.embed(floats()) for _ in range(-(-NUM_EMBEDDED // case.batch_size))]
        outputs[-1].cpu()

    timed = take if task == "step" else embed_all
    before = time.perf_counter()
    if compiled:
        timed()
    return timed, time.perf_counter() - before


CONTENDERS: dict[str, Callable[[Case, str], tuple[Task, float]]] = {
    "jaxnets": jaxnets_task,
    "torch": lambda case, task: torch_task(case, task, compiled=False),
    "torch.compile": lambda case, task: torch_task(case, task, compiled=True),
}


def main(contender: str, task: str, case: Case) -> None:
    take, compile_seconds = CONTENDERS[contender](case, task)
    before = memory_before()
    start = time.perf_counter()
    take()
    _print(compile_seconds=compile_seconds, first_seconds=time.perf_counter() - start)
    for _ in sys.stdin:
        start = time.perf_counter()
        take()
        _print(seconds=time.perf_counter() - start)
    _print(peak_bytes=memory_of_process("VmHWM") - before)


def median_seconds(task: Task, rounds: int) -> float:
    """Of a task, after a first time that does not count."""
    task()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def memory_before() -> int:
    """What the process holds once it has given back what compilation freed; the peak is counted anew from here."""
    if not sys.platform.startswith("linux"):
        return 0
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory_of_process("VmRSS")


def memory_of_process(name: str) -> int:
    """Of this process, in bytes; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Case(**json.loads(sys.argv[3])))
