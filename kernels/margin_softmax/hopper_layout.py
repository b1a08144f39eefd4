"""How numbers lie in registers and in shared memory, as wgmma and TMA want them."""

from typing import Any

from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Shaped

from kernels.margin_softmax.hopper_plan import PIECE, ROWS

# Typed otherwise from one JAX to the next.
_Tiling: Any = plgpu.TilingTransform
_Swizzle: Any = plgpu.SwizzleTransform


def across(vector: Shaped[Array, "N"]) -> Shaped[Array, "N P"]:
    """A number a row, for each column of a piece."""
    return lax.broadcast_in_dim(vector, (ROWS, PIECE), [0])


def down(vector: Shaped[Array, "P"]) -> Shaped[Array, "N P"]:
    """A number a column, for each row of a piece."""
    return lax.broadcast_in_dim(vector, (ROWS, PIECE), [1])


def transforms(columns: int) -> tuple[Any, ...]:
    """Of a matrix of bfloat16 in shared memory, `columns` wide."""
    return _Tiling((8, columns)), _Swizzle(2 * columns)
