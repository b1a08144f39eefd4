"""The ArcLoss study: twelve networks and optimisers that draw MNIST in the plane.

python -m experiments.arcloss --variant v1_2_3
"""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.terminal import (
    OptionalFloat,
    OptionalInt,
    OptionalStr,
    UserError,
    check_counts,
    check_seed,
    main,
    parse,
    said_by_a_library,
)
from experiments.variants import VARIANTS, Adam, Sgd, Variant

if TYPE_CHECKING:
    from experiments.run import Experiment
    from jaxnets.data import Dataset

STARTED = time.perf_counter()
DEFAULT_MARGIN, DEFAULT_M, DEFAULT_EPOCHS = "arcface", 0.3, 10  # picked by experiment: see the README


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a variant of the ArcLoss study on MNIST, and draw its two-dimensional features after every epoch."""

    variant: str = "v1_2_3"
    """one of the twelve (see --list), or all"""
    list: bool = False
    """print the twelve with the study's verdicts, and stop"""
    epochs: int = DEFAULT_EPOCHS
    """the study itself ran about 100"""
    seed: int = 0
    """decides the initial weights and the order of the images"""
    margin: str = DEFAULT_MARGIN
    """arcface, cosface, sphereface, combined, normface, tutorial, adaface or curricularface"""
    m: OptionalFloat = None
    """the margin, in radians where it is an angle; by default 0.3 for arcface, the margin's own for others"""
    m1: OptionalFloat = None
    """of --margin combined: the factor on the angle"""
    m2: OptionalFloat = None
    """of --margin combined: what is added to the angle"""
    m3: OptionalFloat = None
    """of --margin combined: what is taken from the cosine"""
    h: OptionalFloat = None
    """of --margin adaface: how far the margin follows an embedding's length; by default 0.333"""
    beyond: OptionalStr = None
    """of --margin arcface, for angles past π − m: classic, smooth or rising"""
    margin_grad: Literal["exact", "straight_through"] = "exact"
    """straight_through keeps the loss and leaves the margin out of its gradient, as arcface_torch does"""
    min_norm: float = 1.0
    """an embedding shorter than this gets the gradient of one so long; 0 leaves it exact, and training unsteady"""
    subcenters: int = 1
    """directions a class; an image belongs to the nearest of them"""
    s: OptionalFloat = None
    """the scale; by default AdaCos's √2·ln(classes − 1), and 10 for tutorial"""
    batch_size: OptionalInt = None
    """by default the variant's"""
    steps_per_epoch: OptionalInt = None
    """stop each epoch after so many batches"""
    data: str = "mnist"
    """mnist (bundled), idx:DIRECTORY (any folder in MNIST's format) or tfds:NAME"""
    out: Path = Path("runs")
    """the run's folder will be OUT/arcloss/VARIANT/seedSEED"""
    devices: int = 1
    """train data-parallel over so many"""
    fresh: bool = False
    """start over instead of going on with what the run's folder holds"""
    keep_memory: bool = True
    """on Linux, keep freed memory for the next step and do not give it back to the system: faster on a CPU"""
    verbose: bool = False
    """say what was set up before the run"""


def command(config: Config) -> None:
    if config.list:
        for variant in VARIANTS.values():
            print(f"{variant.name:<8}{variant.change:<50}{variant.verdict}")
        return
    names = list(VARIANTS) if config.variant == "all" else [config.variant]
    _check(config)

    from experiments.session import prepare  # JAX is imported from here on, not for --help and --list

    prepare(keep_memory=config.keep_memory, verbose=config.verbose)
    from experiments import drawings
    from experiments.run import run_all
    from jaxnets import data

    with said_by_a_library(ValueError):
        dataset = data.load(config.data)
    builds = [partial(build, VARIANTS[name], config, dataset) for name in names]
    run_all(builds, drawings.closing_words, fresh=config.fresh, started=STARTED)
    if len(names) > 1:
        folders = {VARIANTS[name]: folder_of(config, name) for name in names}
        sheet = drawings.draw_sheet(config.out / "arcloss" / f"sheet_seed{config.seed}.png", folders, dataset)
        print(f"the {len(names)} of them side by side: {sheet}")


def _check(config: Config) -> None:
    if config.variant != "all" and config.variant not in VARIANTS:
        from jaxnets.naming import nearest

        raise UserError(f"there is no variant {config.variant!r}{nearest(config.variant, [*VARIANTS, 'all'])}")
    check_counts(config, ("epochs", "batch_size", "steps_per_epoch", "subcenters", "devices"))
    check_seed(config.seed)
    if config.s is not None and not (math.isfinite(config.s) and config.s > 0):
        raise UserError(f"--s must be a positive number, not {config.s}")
    if not (math.isfinite(config.min_norm) and config.min_norm >= 0):
        raise UserError(f"--min-norm must be a finite number of 0 or more, not {config.min_norm}")


def build(variant: Variant, config: Config, dataset: "Dataset") -> "Experiment":
    """The variant as `run` takes it, with its data on the devices."""
    import jax

    from experiments import drawings
    from experiments.run import Experiment
    from jaxnets import models, parallel
    from jaxnets.epochs import Epoch
    from jaxnets.heads import MarginHead
    from jaxnets.margins import ArcFace, CurricularFace
    from jaxnets.train import create_train_state

    margin = build_margin(config)
    scale = build_scale(config, len(dataset.classes))
    cut = Epoch.of(len(dataset.train.labels), config.batch_size or variant.batch_size, config.steps_per_epoch)
    mesh = parallel.data_mesh(config.devices)
    net_optimizer, learning_rate = build_optimizer(variant.net, cut.steps)
    head_optimizer, _ = build_optimizer(variant.head, cut.steps)
    state = create_train_state(
        jax.random.key(config.seed),
        models.create(variant.name),
        MarginHead(len(dataset.classes), margin, scale, config.subcenters, config.margin_grad, config.min_norm),
        dataset.train.images,
        net_optimizer=net_optimizer,
        head_optimizer=head_optimizer,
    )
    return Experiment(
        name=variant.name,
        directory=folder_of(config, variant.name),
        config={
            "variant": variant.name,
            "net_optimizer": {"name": type(variant.net).__name__, **dataclasses.asdict(variant.net)},
            "head_optimizer": {"name": type(variant.head).__name__, **dataclasses.asdict(variant.head)},
            "seed": config.seed,
            "margin": {"name": config.margin, **dataclasses.asdict(margin)},
            **({"margin_grad": config.margin_grad} if config.margin_grad != "exact" else {}),
            **({"subcenters": config.subcenters} if config.subcenters > 1 else {}),
            "scale": scale,
            "min_norm": config.min_norm,
            "batch_size": cut.batch_size,
            "steps_per_epoch": cut.steps,
            "data": config.data,
            "data_fingerprint": dataset.fingerprint(),
            "image_shape": [*dataset.train.images.shape[1:]],
            "classes": [*dataset.classes],
        },
        epochs=config.epochs,
        cut=cut,
        state=parallel.replicate(state, mesh),
        train=parallel.replicate(dataset.train, mesh),
        test=parallel.replicate(dataset.test, mesh),
        learning_rate=learning_rate,
        measure=drawings.measure(dataset),
        draw_epoch=drawings.draw_epoch(variant, dataset),
        draw_run=drawings.draw_run(
            variant, dataset, margin.m if isinstance(margin, (ArcFace, CurricularFace)) else None
        ),
        take=None if config.devices == 1 else parallel.sharded_take_steps(mesh),
    )


def build_optimizer(recipe: Adam | Sgd, steps_per_epoch: int) -> tuple[Any, Callable[[int], float]]:
    """The optimiser of a recipe, and its learning rate in an epoch counted from 0."""
    from jaxnets import optim

    if isinstance(recipe, Adam):
        return optim.adam(recipe.learning_rate), lambda epoch: recipe.learning_rate
    if recipe.decay_every is None:
        return optim.sgd(recipe.learning_rate, recipe.momentum), lambda epoch: recipe.learning_rate
    schedule = optim.step_lr(
        recipe.learning_rate, steps_per_epoch=steps_per_epoch, step_size=recipe.decay_every, gamma=recipe.decay
    )
    return optim.sgd(schedule, recipe.momentum), lambda epoch: float(schedule(epoch * steps_per_epoch))


def build_scale(config: Config, num_classes: int) -> float:
    """The scale that was asked for, or the one that suits the margin and the number of classes."""
    from jaxnets.losses import adacos_scale

    if config.s is not None:
        return config.s
    if config.margin == "tutorial":
        return 10.0
    try:
        return adacos_scale(num_classes)
    except ValueError as error:
        raise UserError(f"{config.data} has {num_classes} classes: {error} with --s") from error


def build_margin(config: Config) -> Any:
    """The margin that the command line names, with the numbers it takes and no others."""
    from jaxnets import margins
    from jaxnets.naming import nearest

    if config.margin not in margins.BY_NAME:
        raise UserError(f"there is no margin {config.margin!r}{nearest(config.margin, [*margins.BY_NAME])}")
    margin = margins.BY_NAME[config.margin]
    takes = {field.name for field in dataclasses.fields(margin)}
    given = {name: getattr(config, name) for name in ("m", "m1", "m2", "m3", "h", "beyond")}
    given = {name: value for name, value in given.items() if value is not None}
    if config.margin == DEFAULT_MARGIN:
        given = {"m": DEFAULT_M} | given
    for name, value in given.items():
        if name not in takes:
            raise UserError(f"--margin {config.margin} takes no --{name}{_takes(config.margin, takes)}")
        if name == "beyond" and value not in ("classic", "smooth", "rising"):
            raise UserError(f"--beyond is classic, smooth or rising, not {value!r}")
        if name != "beyond" and not (math.isfinite(value) and value >= 0):
            raise UserError(f"--{name} must be a finite number of 0 or more, not {value}")
    return margin(**given)


def _takes(margin: str, fields: set[str]) -> str:
    options = ", ".join(f"--{name}" for name in sorted(fields - {"divisor", "t_alpha"}))
    return f"; it takes {options}" if options else ", nor any other number"


def folder_of(config: Config, name: str) -> Path:
    return config.out / "arcloss" / name / f"seed{config.seed}"


if __name__ == "__main__":
    main(lambda: command(parse(Config, "python -m experiments.arcloss")))
