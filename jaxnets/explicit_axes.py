"""Meshes whose axes are Explicit, as `jax.make_mesh` makes them: an array's type says how it is split.

Within such a mesh every operation has to say how its result is split where that is ambiguous. The functions of this
package say it of their results alone: until there the axes are Auto, and the compiler decides.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array


def between_auto_axes(function: Callable[..., Any], *args: Any, out: Callable[[], Any]) -> Any:
    """`function(*args)`, whose arrays come back split as `out()` says; without an Explicit axis, the function alone.

    Args:
      function: of arrays.
      args: pytrees; leaves that are no arrays are left alone.
      out: makes a pytree of `PartitionSpec`, of the results or of parts of them; called where there are such axes.
    """
    leaves, structure = jax.tree.flatten(args)
    is_array = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves]
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves if isinstance(leaf, jax.Array)]
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return function(*args)

    def of_arrays(arrays: list[Array]) -> Any:
        remaining = iter(arrays)
        whole = [next(remaining) if known else leaf for leaf, known in zip(leaves, is_array, strict=True)]
        return function(*jax.tree.unflatten(structure, whole))

    arrays = [leaf for leaf, known in zip(leaves, is_array, strict=True) if known]
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(of_arrays, axes=mesh.explicit_axes, out_sharding=out())(arrays)


def specs_of(tree: Any) -> Any:
    """How each array of a tree is split."""
    return jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec if isinstance(leaf, jax.Array) else P(), tree)


def of_rows(array: Any) -> P:
    """The sharding of arrays whose rows are split as the rows of `array` are."""
    return P(*jax.typeof(array).sharding.spec[:1]) if isinstance(array, jax.Array) else P()
