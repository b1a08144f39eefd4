"""One contender of `experiments.bench.head`: prints its times and memory as a line of JSON.

The matrix rate is the rate of one large product of the same dtype on the device, measured just before. Peak memory
excludes the arguments: on a CPU by the system's count, elsewhere by XLA's plan and by PyTorch's count. Temporary
memory, by XLA's plan, excludes arguments and results.
"""

import json
import sys
from typing import Any

from experiments.bench.harness import median_seconds, memory_before, memory_of_process

MARGIN_M, SCALE = 0.5, 64.0


def side_of_product(platform: str) -> int:
    """The side of the square product whose rate is measured."""
    return 1024 if platform == "cpu" else 8192


def jax_contender(job: dict[str, Any]) -> dict[str, Any]:
    from experiments.run.session import keep_freed_memory

    keep_freed_memory()
    import jax
    import jax.numpy as jnp

    from jaxnets import ArcFace, margin_softmax_loss

    x_key, w_key, y_key, g_key = jax.random.split(jax.random.key(0), 4)
    dtype = jnp.dtype(job["dtype"])
    x = jax.random.normal(x_key, (job["batch"], job["dimensions"]), dtype)
    w = jax.random.normal(w_key, (job["classes"], job["dimensions"]), dtype)
    labels = jax.random.randint(y_key, (job["batch"],), 0, job["classes"])
    cotangent = jax.random.uniform(g_key, (job["batch"],))

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        options = {"margin": ArcFace(MARGIN_M), "scale": SCALE, "implementation": job["contender"]}
        return margin_softmax_loss(x, w, labels, **options)

    def both(x: jax.Array, w: jax.Array) -> Any:
        value, pull = jax.vjp(loss, x, w)
        return value, pull(cotangent.astype(value.dtype))

    side = side_of_product(jax.default_backend())
    square = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    rate = 2 * side**3 / median_seconds(lambda: jax.block_until_ready(product(square, square)), job["rounds"])
    forward, with_gradients = (jax.jit(of).lower(x, w).compile() for of in (loss, both))
    before = memory_before()
    seconds = {
        "forward_seconds": median_seconds(lambda: jax.block_until_ready(forward(x, w)), job["rounds"]),
        "both_seconds": median_seconds(lambda: jax.block_until_ready(with_gradients(x, w)), job["rounds"]),
    }
    result = {**seconds, "matrix_rate": rate}
    plan = with_gradients.memory_analysis()
    if plan is not None:
        result |= {"temporary_bytes": plan.temp_size_in_bytes}
    if jax.default_backend() == "cpu" or plan is None:
        return result | {"peak_bytes": memory_of_process("VmHWM") - before}
    return result | {"peak_bytes": plan.temp_size_in_bytes + plan.output_size_in_bytes}


def torch_contender(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import torch.nn.functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, job["dtype"])
    torch.manual_seed(0)
    x = torch.randn(job["batch"], job["dimensions"], device=device, dtype=dtype, requires_grad=True)
    w = torch.randn(job["classes"], job["dimensions"], device=device, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, job["classes"], (job["batch"],), device=device)

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """As insightface's arcface_torch writes it, up to the margin's gradient."""
        logits = F.linear(F.normalize(x), F.normalize(w)).float().clamp(-1, 1)
        rows = torch.arange(len(labels), device=device)
        with torch.no_grad():
            target = torch.cos(logits[rows, labels].arccos() + MARGIN_M)
        logits = logits.index_put((rows, labels), target)
        return F.cross_entropy(logits * SCALE, labels)

    chosen = torch.compile(loss) if job["contender"] == "torch.compile" else loss

    def forward() -> None:
        with torch.no_grad():
            chosen(x, w)
        finish()

    def both() -> None:
        x.grad = w.grad = None
        chosen(x, w).backward()
        finish()

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    side = side_of_product(device)
    square = torch.ones(side, side, device=device, dtype=dtype)

    def product() -> None:
        torch.mm(square, square)
        finish()

    rate = 2 * side**3 / median_seconds(product, job["rounds"])
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = memory_before() if device == "cpu" else torch.cuda.memory_allocated()
    seconds = {
        "forward_seconds": median_seconds(forward, job["rounds"]),
        "both_seconds": median_seconds(both, job["rounds"]),
    }
    peak = memory_of_process("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    return {**seconds, "matrix_rate": rate, "peak_bytes": peak - before}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        result = torch_contender(given) if given["contender"].startswith("torch") else jax_contender(given)
    except (NotImplementedError, RuntimeError) as error:  # RuntimeError: both libraries' want of memory
        result = {"refused": str(error).splitlines()[0]}
    print(json.dumps(result))
