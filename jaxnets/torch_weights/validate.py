"""Checks that arrays fit a network; if not, one sentence names the faults."""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from jaxnets.naming import quoted
from jaxnets.torch_weights.names import Free, Shape

MOST_NAMED = 5  # of each kind; the others are counted
LONGEST_NAME = 60  # characters


def check(
    complaint: str, expected: Mapping[str, Shape], found: Mapping[str, np.ndarray | str]
) -> dict[str, np.ndarray]:
    """The arrays of `found`, if their names and shapes equal `expected`'s. A string describes a value that is no array.

    Raises:
      ValueError: if they are not, beginning with `complaint`, naming the first that are missing, not expected, of
        another shape or of a dtype that is not floating, and counting the rest.
    """
    arrays = {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    shapes = decided(expected, {name: array.shape for name, array in arrays.items()})
    problems = {
        "missing": (f"{name} {_text(shape)}" for name, shape in shapes.items() if name not in found),
        "not expected": (
            f"{quoted(name, LONGEST_NAME)} {_text(array.shape) if isinstance(array, np.ndarray) else f'({array})'}"
            for name, array in found.items()
            if name not in shapes
        ),
        "of another shape": (
            f"{name} {_text(array.shape)} for {_text(shapes[name])}{_other_size(expected[name], shapes[name], array)}"
            for name, array in arrays.items()
            if name in shapes and array.shape != shapes[name]
        ),
        "no floating-point array": (
            f"{name} ({array.dtype if isinstance(array, np.ndarray) else array})"
            for name, array in found.items()
            if name in shapes and not (isinstance(array, np.ndarray) and jnp.issubdtype(array.dtype, jnp.floating))
        ),
    }
    sentences = [f"{kind}: {text}" for kind, names in problems.items() if (text := _first(names))]
    if sentences:
        raise ValueError(f"{complaint}: {'; '.join(sentences)}")
    return arrays


def decided(expected: Mapping[str, Shape], found: Mapping[str, tuple[int, ...]]) -> dict[str, Shape]:
    """The expected shapes, with the sizes that the weights decide read from the first entry that has each."""
    sizes: dict[int | Free, int] = {}
    for name, shape in expected.items():
        if len(found.get(name, ())) == len(shape):
            for wanted, size in zip(shape, found.get(name, ()), strict=True):
                if isinstance(wanted, Free) and size > 0 and size % wanted.multiple == 0:
                    sizes.setdefault(wanted, size)
    return {name: tuple(sizes.get(size, size) for size in shape) for name, shape in expected.items()}


def _other_size(wanted: Shape, shape: Shape, array: np.ndarray) -> str:
    """As in " (1000 outputs, not 2)", where only sizes that the weights decide are another."""
    if len(array.shape) != len(shape):
        return ""
    others = [
        (free, found, size) for free, found, size in zip(wanted, array.shape, shape, strict=True) if found != size
    ]
    if not all(isinstance(free, Free) and isinstance(size, int) for free, _, size in others):
        return ""
    return f" ({', '.join(f'{found} {free}, not {size}' for free, found, size in others)})"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{rest}"


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
