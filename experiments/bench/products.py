"""A training step against the sum of its matrix products: the share of time that is left beside them."""

import collections
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement, median_seconds
from experiments.bench.workloads import workloads
from experiments.run.options import check_counts


@dataclasses.dataclass(frozen=True)
class Products(Measurement):
    """A training step, and each of its matrix products timed alone."""

    variant: str = "v1_2_3"
    """a variant's name, or mynn"""
    rounds: int = 7
    """times that each is taken; the median counts"""

    def run(self) -> dict[str, Any]:
        from experiments.bench.worker import jaxnets_inputs, jaxnets_task

        check_counts(self, ("rounds",))
        (workload,) = workloads((self.variant,))
        inputs = jaxnets_inputs(workload)
        import jax
        from jax.interpreters.partial_eval import dce_jaxpr

        from jaxnets import train_step

        program = jax.make_jaxpr(train_step)(*inputs).jaxpr
        # Unused results are left out, as XLA leaves them out: the gradient of the images.
        program, _ = dce_jaxpr(program, [True] * len(program.outvars))
        rows: list[dict[str, Any]] = []
        for product, times in collections.Counter(products_of(program)).items():
            seconds = times * median_seconds(product.task(), self.rounds)
            gflop = times * product.flop / 1e9
            rows.append({"product": str(product), "times": times, "gflop": gflop, "seconds": seconds})
        rows.sort(key=lambda row: -row["seconds"])
        times, gflop, seconds = (sum(row[name] for row in rows) for name in ("times", "gflop", "seconds"))
        take, _ = jaxnets_task(workload, "step")
        step_seconds = median_seconds(take, self.rounds)

        table = Table("product", "times", "GFLOP", "ms", "GFLOP/s", title=f"products of a step of {self.variant}")
        for row in rows[:12]:
            table.add_row(row["product"], str(row["times"]), *_cells(row["gflop"], row["seconds"]))
        table.add_row("all products", str(times), *_cells(gflop, seconds))
        table.add_row("the step", "", *_cells(gflop, step_seconds))
        Console().print(table)
        return {"name": self.variant, "step_seconds": step_seconds, "products_seconds": seconds, "products": rows}


@dataclasses.dataclass(frozen=True)
class _Product:
    """A `dot_general` in float32, by the shapes and dimension numbers of its equation."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dimension_numbers: Any

    def __str__(self) -> str:
        (contracted, _), _ = self.dimension_numbers
        return f"{self.shapes[0]} · {self.shapes[1]} over {tuple(self.shapes[0][i] for i in contracted)}"

    @property
    def flop(self) -> int:
        (_, contracted), (_, batch) = self.dimension_numbers
        new = [size for i, size in enumerate(self.shapes[1]) if i not in (*contracted, *batch)]
        return 2 * math.prod(self.shapes[0]) * math.prod(new)

    def task(self) -> Any:
        import jax
        import jax.numpy as jnp

        product = jax.jit(
            lambda a, b: jax.lax.dot_general(a, b, self.dimension_numbers, precision=jax.lax.Precision.HIGHEST)
        )
        operands = [jnp.ones(shape) for shape in self.shapes]
        return lambda: jax.block_until_ready(product(*operands))


def products_of(jaxpr: Any) -> Iterator[_Product]:
    """The matrix products of a program and its inner functions; a scan's are repeated for each turn."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shapes = tuple(variable.aval.shape for variable in equation.invars)
            yield _Product(shapes, equation.params["dimension_numbers"])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                for _ in range(equation.params["length"] if equation.primitive.name == "scan" else 1):
                    yield from products_of(inner)


def _cells(gflop: float, seconds: float) -> list[str]:
    return [f"{gflop:.2f}", f"{seconds * 1e3:.1f}", f"{gflop / seconds:.0f}"]
