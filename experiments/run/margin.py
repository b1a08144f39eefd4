"""The margin and the scale that the command line names."""

import dataclasses
import math
from typing import Any

from experiments.run.options import BEYOND, MarginOptions, check_name
from experiments.run.terminal import UserError, as_user_error
from jaxnets import margins
from jaxnets.losses import adacos_scale
from jaxnets.naming import quoted

DEFAULT_M = {"arcface": 0.3}  # picked by experiment: see experiments/results/README.md


def build_margin(options: MarginOptions) -> Any:
    """The margin, with the numbers that it takes.

    Raises:
      UserError: for an unknown margin, a number that it does not take, or one outside its domain.
    """
    check_name("margin", options.margin, [*margins.BY_NAME])
    margin = margins.BY_NAME[options.margin]
    takes = {field.name for field in dataclasses.fields(margin)}
    given = {name: getattr(options, name) for name in ("m", "m1", "m2", "m3", "h", "beyond")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.margin in DEFAULT_M:
        given = {"m": DEFAULT_M[options.margin]} | given
    for name, value in given.items():
        if name not in takes:
            raise UserError(f"--margin {options.margin} takes no --{name}{_takes(takes)}")
        if name == "beyond" and value not in BEYOND:
            raise UserError(f"--beyond is classic, smooth or rising, not {value!r}")
        if name != "beyond" and not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name} must be a finite number of 0 or more, not {value}")
    with as_user_error(ValueError):
        return margin(**given)


def build_scale(options: MarginOptions, num_classes: int, data: str) -> float:
    """The scale that was asked for, or the one that suits the margin and the number of classes.

    Raises:
      UserError: where AdaCos has none for so few classes.
    """
    if options.s is not None:
        return options.s
    if options.margin == "tutorial":
        return 10.0
    try:
        return adacos_scale(num_classes)
    except ValueError as error:
        raise UserError(f"{quoted(data)} has {num_classes} classes: {error} with --s") from error


def _takes(fields: set[str]) -> str:
    options = ", ".join(f"--{name}" for name in sorted(fields - {"divisor", "t_alpha"}))
    return f"; it takes {options}" if options else ", nor any other number"
