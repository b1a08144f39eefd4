"""Makes a class a value: instances are equal if their numbers are, and are pytrees of these numbers."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

# One number, or one a row; Python's or an array's, and traced or not.
if TYPE_CHECKING:
    Numbers: TypeAlias = Any
else:
    Numbers = Real[jax.typing.ArrayLike, "..."]

C = TypeVar("C", bound=type[Any])


@dataclass_transform(frozen_default=True)
def value(cls: C) -> C:
    """A frozen dataclass whose numbers are leaves of a pytree, and whose names, of type `str`, are metadata.

    So a margin can be an argument of a compiled function, which another number does not compile anew; and while its
    numbers are Python's, it has a hash, and can be part of a state's metadata.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(made)]
    numbers = [name for name in names if not isinstance(getattr(made, name, None), str)]

    def flatten(margin: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        words = tuple(getattr(margin, name) for name in names if name not in numbers)
        return tuple(getattr(margin, name) for name in numbers), words

    def unflatten(words: tuple[Any, ...], leaves: Any) -> Any:
        margin = object.__new__(made)  # unchecked: gradients, axes and placeholders are leaves too
        remaining = iter(words)
        for name in names:
            if name not in numbers:
                object.__setattr__(margin, name, next(remaining))
        for name, leaf in zip(numbers, leaves, strict=True):
            object.__setattr__(margin, name, leaf)
        return margin

    jax.tree_util.register_pytree_node(made, flatten, unflatten)
    return cast(C, made)


def like(number: Numbers, array: Array) -> Any:
    """A Python number as it is, and an array of numbers in the dtype of `array`."""
    return number if isinstance(number, (int, float)) else jnp.asarray(number, array.dtype)


def cos_sin_of(number: Numbers, array: Float[Array, "N"]) -> tuple[Any, Any]:
    """Of a Python number in float64, of an array in the dtype of `array`."""
    angle = like(number, array)
    return (math.cos(angle), math.sin(angle)) if isinstance(angle, (int, float)) else (jnp.cos(angle), jnp.sin(angle))
