"""One contender of a benchmark in a process of its own: builds its step, then takes one for each line on its input.

    python -m experiments.bench_worker jaxnets v1_2_3 256

Prints a line of JSON for "ready" (with the first call's seconds), for each step, and, at the end of the input, for the
memory that the steps took at their peak beyond what the process held before them.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.variants import VARIANTS

MARGIN_M, SCALE = 0.3, 3.107


def batch_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8), rng.integers(0, 10, size).astype(np.int32)


def jaxnets_step(name: str, batch_size: int) -> Callable[[], Any]:
    from experiments.session import keep_freed_memory

    keep_freed_memory()  # as every command of this project does
    import jax

    from experiments.arcloss import build_optimizer
    from jaxnets import ArcFace, MarginHead, Split, create, create_train_state, train_step

    variant = VARIANTS[name]
    images, labels = batch_of(batch_size)
    batch = jax.device_put(Split(images, labels))
    state = create_train_state(
        jax.random.key(0),
        create(name),
        MarginHead(10, ArcFace(MARGIN_M), SCALE),
        images,
        net_optimizer=build_optimizer(variant.net, 235)[0],
        head_optimizer=build_optimizer(variant.head, 235)[0],
    )
    step = jax.jit(train_step, donate_argnums=0)

    def take() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return take


def torch_step(name: str, batch_size: int, *, compiled: bool) -> Callable[[], Any]:
    import torch

    from experiments.torch_peer import Step
    from jaxnets import ArcFace

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("highest")
    images, labels = batch_of(batch_size)
    x = torch.tensor(images.transpose(0, 3, 1, 2), device=device)
    y = torch.tensor(labels, device=device, dtype=torch.long)
    step = Step(VARIANTS[name], ArcFace(MARGIN_M), SCALE, device=device, compiled=compiled)

    def take() -> None:
        step((x.float() / 255).contiguous(memory_format=torch.channels_last), y).item()

    return take


CONTENDERS: dict[str, Callable[[str, int], Callable[[], Any]]] = {
    "jaxnets": jaxnets_step,
    "torch": lambda name, batch_size: torch_step(name, batch_size, compiled=False),
    "torch.compile": lambda name, batch_size: torch_step(name, batch_size, compiled=True),
}


def main(contender: str, variant: str, batch_size: int) -> None:
    started = time.perf_counter()
    take = CONTENDERS[contender](variant, batch_size)
    built, before = time.perf_counter(), _peak_bytes()
    take()
    first = time.perf_counter() - built
    _print(ready=True, build_seconds=built - started, first_step_seconds=first)
    for _ in sys.stdin:
        start = time.perf_counter()
        take()
        _print(seconds=time.perf_counter() - start)
    _print(peak_bytes=_peak_bytes() - before)


def _peak_bytes() -> int:
    """The most memory this process has held. (Linux's getrusage would count its parent's too.)"""
    if sys.platform.startswith("linux"):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
