"""Numbers are checked where they are given: each has a domain, and one outside it gets a sentence."""

import math
import numbers
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Real

Number: TypeAlias = Real[ArrayLike, ""]  # Python's or an array's, and traced or not

_ENDS = {"∞": math.inf, "-∞": -math.inf, "π": math.pi, "π/2": math.pi / 2}


def check(name: str, value: Any, domain: str, *, unit: str = "") -> None:
    """Refuses a number outside its domain. One that is traced is not known yet, and passes.

    >>> check("momentum", 0.9, "[0, 1)")
    >>> check("momentum", 1.0, "[0, 1)")
    Traceback (most recent call last):
    ValueError: momentum must be in [0, 1), not 1.0
    >>> check("m", 28.6, "[0, π/2]", unit="radians")
    Traceback (most recent call last):
    ValueError: m must be in [0, π/2] radians, not 28.6; 28.6 degrees are 0.4992 radians

    Args:
      name: of the number, as the message calls it.
      value: a number, or an array of which every element is checked.
      domain: an interval, as "[0, 1)"; ∞, π and π/2 may be its ends. NaN lies in none.
      unit: of the number. For "radians" the message converts from degrees.

    Raises:
      ValueError: for a value outside the domain, or no number at all.
    """
    if isinstance(value, jax.core.Tracer):
        return
    dtype = np.asarray(value).dtype
    if not jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be a number, not {value!r}")
    values = np.asarray(value, np.float64)
    low, high = (_ENDS[end] if end in _ENDS else float(end) for end in domain[1:-1].split(", "))
    is_above = values >= low if domain[0] == "[" else values > low
    is_below = values <= high if domain[-1] == "]" else values < high
    outside = values[~(is_above & is_below)]
    if outside.size:
        first = value if values.ndim == 0 else outside[0]
        found = f"{name} must be in {domain} {unit}".rstrip() + f", not {first}"
        degrees = float(outside[0])
        if unit == "radians" and high < degrees <= 360:
            found += f"; {degrees:g} degrees are {math.radians(degrees):.4f} radians"
        raise ValueError(found)


def check_margin(name: str, margin: Any, examples: str) -> None:
    """Refuses a number and a class in the place of a margin, or of another form of a loss.

    Raises:
      ValueError: for either.
    """
    if isinstance(margin, type):
        raise ValueError(f"{name} must be made of its class: write {margin.__name__}(…)")
    if isinstance(margin, (numbers.Number, str, np.ndarray, jax.Array)) or margin is None:
        raise ValueError(f"{name} must be one such as {examples}, not {margin!r}")


def check_count(name: str, value: Any, *, least: int = 1) -> None:
    """Refuses a value that is no integer or is less than `least`.

    Raises:
      ValueError: for such a value.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of {least} or more, not {value!r}")
