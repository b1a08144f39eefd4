"""Whether arrays are the ones that a network needs; if not, everything that is wrong with them at once."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxnets.torch_weights.names import Free, Shape


def check(
    complaint: str, expected: Mapping[str, Shape], found: Mapping[str, np.ndarray | None]
) -> dict[str, np.ndarray]:
    """The arrays of `found`, where they are those of `expected` and no others; None stands for what is no array.

    Raises:
      ValueError: where they are not, beginning with `complaint`, naming all that are missing, not expected, of another
        shape or of a dtype that is not floating.
    """
    arrays = {name: array for name, array in found.items() if array is not None}
    shapes = _decided(expected, {name: array.shape for name, array in arrays.items()})
    problems = {
        "missing": [f"{name} {_text(shape)}" for name, shape in shapes.items() if name not in found],
        "not expected": [
            f"{name} {'(no array)' if array is None else _text(array.shape)}"
            for name, array in found.items()
            if name not in shapes
        ],
        "of another shape": [
            f"{name} {_text(array.shape)} for {_text(shapes[name])}"
            for name, array in arrays.items()
            if name in shapes and array.shape != shapes[name]
        ],
        "no floating-point array": [
            name if array is None else f"{name} ({array.dtype})"
            for name, array in found.items()
            if name in shapes and (array is None or not jnp.issubdtype(array.dtype, jnp.floating))
        ],
    }
    sentences = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if sentences:
        text = f"{complaint}: {'; '.join(sentences)}"
        raise ValueError("".join(letter if letter.isprintable() else "�" for letter in text))
    return arrays


def _decided(expected: Mapping[str, Shape], found: Mapping[str, tuple[int, ...]]) -> dict[str, Shape]:
    """The expected shapes, with the sizes that the weights decide read from the first entry that has each."""
    sizes: dict[int | Free, int] = {}
    for name, shape in expected.items():
        if len(found.get(name, ())) == len(shape):
            for wanted, size in zip(shape, found.get(name, ()), strict=True):
                if isinstance(wanted, Free) and size > 0 and size % wanted.multiple == 0:
                    sizes.setdefault(wanted, size)
    return {name: tuple(sizes.get(size, size) for size in shape) for name, shape in expected.items()}


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
