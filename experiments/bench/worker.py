"""One contender of `step` or `inference` in a process of its own, as `harness.TimedProcess` drives it.

python -m experiments.bench.worker jaxnets step '{"name": "v1_2_3", "batch_size": 256, "size": 28, "channels": 1}'
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.arcloss.variants import VARIANTS, Sgd, Variant
from experiments.bench.harness import Task, memory_before, memory_of_process, seconds_of
from experiments.bench.workloads import Workload

MARGIN_M, SCALE = 0.3, 3.107
NUM_EMBEDDED = 10_000

# Mynn's study names no optimiser: a comparison of speed takes the ArcLoss study's.
_MYNN = Variant("mynn", "", "", net=Sgd(1e-2, momentum=0.9), batch_size=64)


def recipe(workload: Workload) -> Variant:
    return VARIANTS.get(workload.name, _MYNN)


def batch_of(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(
        0, 256, (workload.batch_size, workload.size, workload.size, workload.channels), dtype=np.uint8
    )
    return images, rng.integers(0, 2, workload.batch_size).astype(np.int32)


def jaxnets_inputs(workload: Workload) -> tuple[Any, Any]:
    """A fresh state and a batch on the device."""
    from experiments.run.session import keep_freed_memory

    keep_freed_memory()  # as every command of this project does
    import jax

    from experiments.arcloss.study import build_optimizer
    from jaxnets import ArcFace, MarginHead, ScoresHead, Split, create, create_train_state

    images, labels = batch_of(workload)
    state = create_train_state(
        jax.random.key(0),
        create(workload.name),
        MarginHead(10, ArcFace(MARGIN_M), SCALE) if workload.name in VARIANTS else ScoresHead(),
        images,
        net_optimizer=build_optimizer(recipe(workload).net, 235)[0],
        head_optimizer=build_optimizer(recipe(workload).head, 235)[0],
    )
    return state, jax.device_put(Split(images, labels))


def jaxnets_task(workload: Workload, task: str) -> tuple[Task, float]:
    """The task to time, and the seconds that its tracing and compilation took."""
    state, batch = jaxnets_inputs(workload)
    import jax

    from jaxnets import eval_step, quick_compilation, train_step

    before = time.perf_counter()
    if task == "inference":
        embed = jax.jit(eval_step).lower(state, batch).compile()
        compile_seconds = time.perf_counter() - before

        def embed_all() -> None:
            outputs: list[Any] = []
            for _ in range(-(-NUM_EMBEDDED // workload.batch_size)):
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


def torch_task(workload: Workload, task: str, *, compiled: bool) -> tuple[Task, float]:
    """As `jaxnets_task`; the compilation of `torch.compile` is its first call."""
    import torch

    from experiments.torch_peer import TorchStep
    from jaxnets import ArcFace

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("highest")
    images, labels = batch_of(workload)
    x = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    y = torch.tensor(labels, device=device, dtype=torch.long)
    step = TorchStep(recipe(workload), ArcFace(MARGIN_M), SCALE, device=device, compiled=compiled)

    def floats() -> torch.Tensor:
        return (x.float() / 255).contiguous(memory_format=torch.channels_last)

    def take() -> None:
        step(floats(), y).item()

    def embed_all() -> None:
        step.net.eval()
        with torch.inference_mode():
            outputs = [step.embed(floats()) for _ in range(-(-NUM_EMBEDDED // workload.batch_size))]
        outputs[-1].cpu()

    timed = take if task == "step" else embed_all
    before = time.perf_counter()
    if compiled:
        timed()
    return timed, time.perf_counter() - before


CONTENDERS: dict[str, Callable[[Workload, str], tuple[Task, float]]] = {
    "jaxnets": jaxnets_task,
    "torch": lambda workload, task: torch_task(workload, task, compiled=False),
    "torch.compile": lambda workload, task: torch_task(workload, task, compiled=True),
}


def main(contender: str, task: str, workload: Workload) -> None:
    take, compile_seconds = CONTENDERS[contender](workload, task)
    before = memory_before()
    _print(compile_seconds=compile_seconds)
    for _ in sys.stdin:
        _print(seconds=seconds_of(take))
    _print(peak_bytes=memory_of_process("VmHWM") - before)


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Workload(**json.loads(sys.argv[3])))
