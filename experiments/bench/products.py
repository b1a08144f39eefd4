"""A training step against the sum of its matrix products: what is left to gain beside them."""

import collections
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench.cases import cases
from experiments.terminal import check_counts


@dataclasses.dataclass(frozen=True)
class Products:
    """A training step, and each matrix product that it is made of, timed alone."""

    variant: str = "v1_2_3"
    """a variant's name, or mynn"""
    rounds: int = 7
    """times that each is taken; the median counts"""
    out: Path | None = None
    """write the result as JSON"""

    def measure(self) -> dict[str, Any]:
        from experiments.bench.worker import jaxnets_inputs, jaxnets_task, median_seconds

        check_counts(self, ("rounds",))
        (case,) = cases((self.variant,))
        inputs = jaxnets_inputs(case)
        import jax
        from jax.interpreters.partial_eval import dce_jaxpr

        from jaxnets import train_step

        program = jax.make_jaxpr(train_step)(*inputs).jaxpr
        # Without what nobody uses, as XLA leaves it out: the gradient of the images.
        program, _ = dce_jaxpr(program, [True] * len(program.outvars))
        products = collections.Counter(products_of(program))
        rows: list[dict[str, Any]] = []
        for product, times in products.items():
            seconds = times * median_seconds(product.task(), self.rounds)
            gflop = times * product.flop / 1e9
            rows.append({"product": str(product), "times": times, "gflop": gflop, "seconds": seconds})
        rows.sort(key=lambda row: -row["seconds"])
        take, _ = jaxnets_task(case, "step")
        step_seconds = median_seconds(take, self.rounds)
        sum_seconds = sum(row["seconds"] for row in rows)
        total_gflop = sum(row["gflop"] for row in rows)

        table = Table("product", "times", "GFLOP", "ms", "GFLOP/s", title=f"matrix products of a step of {case.name}")
        for row in rows[:12]:
            table.add_row(row["product"], str(row["times"]), *_cells(row["gflop"], row["seconds"]))
        table.add_row("all products", str(products.total()), *_cells(total_gflop, sum_seconds))
        table.add_row("the step", "", *_cells(total_gflop, step_seconds))
        Console().print(table)
        return {"name": case.name, "step_seconds": step_seconds, "products_seconds": sum_seconds, "products": rows}


@dataclasses.dataclass(frozen=True)
class _Product:
    """A `dot_general` in float32, as its equation has it."""

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
    """Those of a program, inner ones too, and those of a scan as often as it goes round."""
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
