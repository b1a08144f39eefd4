"""The head that the command line names: a margin or another loss of angles, its numbers and its scale."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh

from experiments.run.options import BEYOND, NUMBERS, MarginOptions, check_name
from experiments.run.terminal import UserError, as_user_error
from jaxnets import margins
from jaxnets.adacos import AdaCos
from jaxnets.binary_losses import BinaryHead, SphereFace2, UniFace
from jaxnets.heads import Head, MarginHead
from jaxnets.losses import adacos_scale
from jaxnets.naming import quoted
from jaxnets.sharded_head import ShardedMarginHead

DEFAULT_M = {"arcface": 0.3}  # picked by experiment: see experiments/results/README.md
BINARY: Mapping[str, type[Any]] = {"sphereface2": SphereFace2, "uniface": UniFace}
LOSSES: Mapping[str, type[Any]] = {**margins.BY_NAME, **BINARY, "adacos": margins.NormFace}


class Built(NamedTuple):
    """A head, and its part of a run's configuration: its margin, and its scale at the start."""

    head: Head
    margin: Any
    scale: float


class Split(NamedTuple):
    """How class weights are split: over the devices of a mesh, with the share of classes that a step takes, or all."""

    mesh: Mesh
    sample: float | None


def build_head(options: MarginOptions, num_classes: int, data: str, split: Split | None = None) -> Built:
    """The head for so many classes of the data that are called so; with a `split`, one whose class weights are split.

    Raises:
      UserError: for an unknown margin, a number that it does not take, or one outside its domain, and where AdaCos has
        no scale for so few classes.
    """
    check_name("margin", options.margin, [*LOSSES])
    if options.margin == "adacos" and options.s is not None:
        raise UserError("--margin adacos has a scale that follows the training: leave out --s")
    margin = _margin(options)
    if options.margin == "uniface" and options.s is None:
        # Its threshold begins near ln(10·C), which s·(1 − m) must exceed; the paper's 64 learns slowly for few classes.
        margin = dataclasses.replace(margin, scale=2 * _scale(options, num_classes, data))
    with as_user_error(ValueError):
        if options.margin in BINARY:
            binary = BinaryHead(num_classes, margin, options.subcenters, options.min_norm)
            return Built(binary, margin, float(margin.scale))
        scale = _scale(options, num_classes, data)
        used = AdaCos(num_classes) if options.margin == "adacos" else scale
        arguments = (num_classes, margin, used, options.subcenters, options.margin_grad, options.min_norm)
        if split is None:
            return Built(MarginHead(*arguments), margin, scale)
        sharded = ShardedMarginHead(*arguments, mesh=split.mesh, axis=split.mesh.axis_names, sample=split.sample)
        return Built(sharded, margin, scale)


def _margin(options: MarginOptions) -> Any:
    margin = LOSSES[options.margin]
    takes = {field.name for field in dataclasses.fields(margin)}
    given = {name: getattr(options, name) for name in NUMBERS}
    given = {name: value for name, value in given.items() if value is not None}
    if options.margin in DEFAULT_M:
        given = {"m": DEFAULT_M[options.margin]} | given
    for name, value in given.items():
        option = _option(name)
        if name not in takes:
            raise UserError(f"--margin {options.margin} takes no {option}{_takes(takes)}")
        if name == "beyond" and value not in BEYOND:
            raise UserError(f"--beyond is classic, smooth or rising, not {value!r}")
        if name != "beyond" and not (math.isfinite(value) and value >= 0):
            raise UserError(f"{option} must be a finite number of 0 or more, not {value}")
    if "scale" in takes and options.s is not None:
        given["scale"] = options.s
    if "margin_grad" in takes:
        given["margin_grad"] = options.margin_grad
    with as_user_error(ValueError):
        return margin(**given)


def _scale(options: MarginOptions, num_classes: int, data: str) -> float:
    """The scale that was asked for, or the one that suits the margin and the number of classes."""
    if options.s is not None:
        return options.s
    if options.margin == "tutorial":
        return 10.0
    if options.margin == "adacos" and num_classes < 3:
        raise UserError(f"{quoted(data)} has {num_classes} classes, and --margin adacos takes three or more")
    try:
        return adacos_scale(num_classes)
    except ValueError as error:
        raise UserError(f"{quoted(data)} has {num_classes} classes: {error} with --s") from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _takes(fields: set[str]) -> str:
    options = ", ".join(_option(name) for name in sorted(fields & {*NUMBERS}))
    return f"; it takes {options}" if options else ", nor any other number"
