"""Meshes whose axes are Explicit, as `jax.make_mesh` makes them: an array's type says how it is split.

Within such a mesh every operation has to say how its result is split where that is ambiguous. The functions of this
package say it of their results alone: until there the axes are Auto, and the compiler decides.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P


def between_auto_axes(function: Callable[..., Any], *args: Any, out: Callable[[], Any]) -> Any:
    """`function(*args)`, whose arrays come back split as `out()` says; without an Explicit axis, the function alone.

    Args:
      function: of arrays.
      args: pytrees of arrays.
      out: makes a pytree of `PartitionSpec`, of the results or of parts of them; called where there are such axes.
    """
    for leaf in jax.tree.leaves(args):
        mesh = jax.typeof(leaf).sharding.mesh if isinstance(leaf, jax.Array) else None
        if mesh is not None and mesh.explicit_axes:
            with jax.sharding.use_abstract_mesh(mesh):
                return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=out())(*args)
    return function(*args)


def specs_of(tree: Any) -> Any:
    """How each array of a tree is split."""
    return jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec if isinstance(leaf, jax.Array) else P(), tree)


def of_rows(array: Any) -> P:
    """How arrays are split whose rows are split as those of `array`."""
    return P(*jax.typeof(array).sharding.spec[:1]) if isinstance(array, jax.Array) else P()
