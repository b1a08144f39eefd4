"""The memory of a training step with split classes, and the bytes its devices send, against the model of their cost."""

import itertools
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import said_by
from kernels.margin_softmax.negative_sampling import room

MIB = 2**20

# Of an H200, for an estimate: products of large bfloat16 matrices, in operations a second; bytes a second of its
# memory, within a node of eight, and of each device beyond the node.
PRODUCTS, MEMORY, NODE, BEYOND = 790e12, 4.3e12, 450e9, 50e9
ROWS, DIMENSIONS, DEVICES_OF_NODE = 512, 512, 8  # embeddings that each device brings, in bfloat16


def measure(
    classes: tuple[int, ...], batches: tuple[int, ...], dimensions: int, devices: int, sample: float, limit: int
) -> dict[str, Any]:
    """Each number of classes, of rows over all devices, and all classes or a sample of them: compiled, and counted.

    The model is `kernels.margin_softmax.sharded`'s. The state is a device's class weights and their momentum. Temporary
    memory holds their gradient, or the drawn classes' gradient. Sent are embeddings to all devices and their gradients
    back, labels and sums.
    """
    table = Table(title=f"a step of {devices} devices, for each of them", show_edge=False)
    for name in ("classes", "rows", "of them", "state", "model", "temporary", "gradient", "sent", "model"):
        table.add_column(name, justify="right")
    rows: list[dict[str, Any]] = []
    for number, batch, share in itertools.product(classes, batches, (None, sample)):
        sizes = {"classes": number, "batch": batch, "dimensions": dimensions, "devices": devices}
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        job = json.dumps(sizes | {"sample": share})
        counted = said_by("experiments.bench.sharded_worker", job, limit=limit, environment=environment)
        row = sizes | {"sample": share} | model(**sizes, sample=share) | counted
        rows.append(row)
        of = (f"{number:,}", f"{batch:,}", "all" if share is None else f"{share:g}")
        told = [row["refused"]] if "refused" in row else [f"{size / MIB:,.1f} MiB" for size in figures(row)]
        table.add_row(*of, *told)
    Console().print(table)
    return {"rows": rows}


def figures(row: Mapping[str, Any]) -> tuple[int, ...]:
    """A row's bytes for the tables: of the state, temporary, and sent, each beside its model."""
    return (
        row["state_bytes"],
        row["model_state_bytes"],
        row["temporary_bytes"],
        row["model_gradient_bytes"],
        sum(row["sent_bytes"].values()),
        row["model_sent_bytes"],
    )


def model(classes: int, batch: int, dimensions: int, devices: int, sample: float | None = None) -> dict[str, int]:
    """In float32, the bytes of a device's class weights and momentum, of the gradient, and of its messages."""
    here = -(-classes // devices)
    of_gradient = here if sample is None else room(sample, batch, here)
    each_way = (devices - 1) * batch // devices
    return {
        "model_state_bytes": 8 * here * dimensions,
        "model_gradient_bytes": 4 * of_gradient * dimensions,
        "model_sent_bytes": each_way * (4 * dimensions + 4 * dimensions + 4 + 2 * 8),
    }


class Estimate(NamedTuple):
    """Of a step on each device: bytes of its class weights, momentum and gradient; seconds of its parts."""

    held: float
    products: float
    sampled_products: float
    update: float
    sampled_update: float
    talk: float

    @property
    def limit(self) -> str:
        """The slowest part, and the way out; `ShardedMarginHead` has the options."""
        if self.talk > self.products:
            return "talk: classes over the devices of a node, rows over all"
        if self.sampled_products > self.products / 2:
            return "products: classes over the devices of a node, with a sample (over all, it has room for every class)"
        return "products: a sample"


def estimate(classes: int, devices: int, sample: float) -> Estimate:
    """The cost of a step of the head, without latencies, and as if nothing overlapped.

    Products are 8·N·c·D operations for N rows of all devices and c classes of one: two for the cosines, which are
    computed twice, and two for each gradient. With a sample, c is `negative_sampling.room`. The update is
    24·c·D bytes: the gradient is set to zero and read, momentum and weights are read and written. Of a sample it is
    40·c·D bytes: momentum and weights are also copied out of all and back. Talk is (P − 1)/P · N · (2·D + 4·D + 4 +
    2·8) bytes for P devices.
    """
    here, rows = classes / devices, ROWS * devices
    sampled = room(sample, rows, round(here))
    sent = (devices - 1) / devices * rows * (2 * DIMENSIONS + 4 * DIMENSIONS + 4 + 2 * 8)
    return Estimate(
        held=12 * here * DIMENSIONS,
        products=8 * rows * here * DIMENSIONS / PRODUCTS,
        sampled_products=8 * rows * sampled * DIMENSIONS / PRODUCTS,
        update=24 * here * DIMENSIONS / MEMORY,
        sampled_update=40 * sampled * DIMENSIONS / MEMORY,
        talk=sent / (NODE if devices <= DEVICES_OF_NODE else BEYOND),
    )
