"""A training step with split classes, compiled and counted, and not run: for `experiments.bench.sharded_head`.

Every device's program is the same, and it is counted as the compiler has it: the memory of its arrays, and the bytes
that a device sends in each collective operation, where devices form a ring.
"""

import json
import math
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets import ArcFace, ShardedMarginHead, Split, create_train_state, sgd, train_step
from kernels.margin_softmax.choice import chunk_size

MARGIN_M, SCALE = 0.5, 64.0
_COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\w*\[([\d,]*)\]")
# The bytes that one of P devices sends, as a multiple of the operation's result; a reduce-scatter's is one share of P.
_SENT = {
    "all-gather": lambda devices: (devices - 1) / devices,
    "all-reduce": lambda devices: 2 * (devices - 1) / devices,
    "reduce-scatter": lambda devices: devices - 1,
    "all-to-all": lambda devices: (devices - 1) / devices,
    "collective-permute": lambda devices: 1,
}


class Pixels(nn.Module):
    """A product of one pixel: a network whose cost is next to nothing."""

    dimensions: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, axis_name: Any = None) -> jax.Array:
        return nn.Dense(self.dimensions)(images.reshape(len(images), -1))


def compiled(classes: int, batch: int, dimensions: int, devices: int, sample: float | None) -> Any:
    """`train_step` in float32 with momentum, of class weights that no memory is taken for."""
    mesh = jax.make_mesh((devices,), ("class",), devices=jax.devices()[:devices])
    head = ShardedMarginHead(classes, ArcFace(MARGIN_M), SCALE, mesh=mesh, sample=sample)
    images = jax.ShapeDtypeStruct((batch, 1, 1, 1), jnp.uint8)
    how = Pixels(dimensions), head, images, sgd(0.1, 0.9), sgd(0.1, 0.9)
    state = jax.eval_shape(lambda key: create_train_state(key, *how), jax.random.key(0))
    rows = NamedSharding(head.mesh, P("class"))

    def placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows)
    state = jax.tree.map(placed, state, head.shardings(state))
    return jax.jit(train_step, donate_argnums=0).lower(state, Split(placed(images, rows), labels)).compile()


def sent_bytes(program: str, devices: int) -> dict[str, float]:
    """By kind of collective operation, the bytes that each device sends in a step.

    Args:
      program: the compiled program's text; all of its collective operations are over all `devices`.

    Raises:
      ValueError: where one is asynchronous, or in a loop.
    """
    entry = program[program.index("\nENTRY ") :]
    found = _COLLECTIVE.findall(entry)
    if len(found) != len(_COLLECTIVE.findall(program)) or any(start for *_, start in found):
        raise ValueError("a collective operation is in a loop, or asynchronous: its bytes cannot be counted")
    sent: dict[str, float] = {}
    for result, kind, _ in found:
        size = sum(math.prod(shape) * bits for bits, shape in arrays(result)) / 8
        sent[kind] = sent.get(kind, 0.0) + _SENT[kind](devices) * size
    return sent


def arrays(text: str) -> list[tuple[int, tuple[int, ...]]]:
    """The bits of a number, and the shape, of each array in a program's text."""
    return [
        (int(bits or 8), tuple(int(length) for length in shape.split(",") if length))
        for _, bits, shape in _ARRAY.findall(text)
    ]


def check_split(program: str, classes: int, batch: int, dimensions: int, devices: int) -> None:
    """Refuses a program in which a device holds something of every class, or more logits than a chunk has.

    Raises:
      ValueError: naming the array.
    """
    most = max(chunk_size(batch, (-(-classes // devices), 1, dimensions)), dimensions)  # embeddings are [batch, D]
    for _, shape in sorted(set(arrays(program))):
        size = math.prod(shape)
        if max(shape, default=0) >= classes or (dimensions in shape and size >= classes * dimensions):
            raise ValueError(f"a device's array {[*shape]} has room for all of {classes} classes")
        if batch in shape and size > batch * most:
            raise ValueError(f"a device's array {[*shape]} has room for more than {most} logits of each row")


def main(job: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: job[name] for name in ("classes", "batch", "dimensions", "devices")}
    program = compiled(**sizes, sample=job["sample"])
    text, plan = program.as_text(), program.memory_analysis()
    check_split(text, **sizes)
    return {
        "state_bytes": plan.argument_size_in_bytes,
        "temporary_bytes": plan.temp_size_in_bytes,
        "copied_bytes": plan.output_size_in_bytes - plan.alias_size_in_bytes,
        "sent_bytes": {kind: round(size) for kind, size in sorted(sent_bytes(text, job["devices"]).items())},
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
