"""Inputs of public functions: everything that `jnp.asarray` takes (arrays of JAX or NumPy, nested lists, …)."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from jax.typing import ArrayLike
from jaxtyping import Float, Int

Vectors: TypeAlias = Float[ArrayLike, "N D"] | Sequence[Any]
ClassWeights: TypeAlias = Float[ArrayLike, "C D"] | Float[ArrayLike, "C K D"] | Sequence[Any]
Labels: TypeAlias = Int[ArrayLike, "N"] | Sequence[Any]
