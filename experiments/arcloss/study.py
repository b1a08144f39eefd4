"""A variant of the ArcLoss study made into an experiment, and the runs of a command."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments.arcloss import drawings
from experiments.arcloss.config import Config
from experiments.arcloss.variants import VARIANTS, Adam, Sgd, Variant
from experiments.run.experiment import Experiment, check_takes, mesh_of, recorded_data
from experiments.run.loop import run_all
from experiments.run.margin import build_head
from experiments.run.pictures import load
from experiments.run.processes import is_first
from experiments.run.session import Invocation
from jaxnets import models, optim, parallel
from jaxnets.data import Dataset
from jaxnets.epochs import EpochPlan, evaluation_batch
from jaxnets.margins import ArcFace, CurricularFace, ElasticArcFace
from jaxnets.train import create_train_state


def train(config: Config, invocation: Invocation) -> None:
    """Trains the variants that the command line names, one after the other, and draws them side by side."""
    mesh_of(config.devices)
    dataset = load(config.data, size=config.picture_size, skip_unreadable=config.skip_unreadable)
    for note in dataset.notes:
        print(f"note: {note}")
    of_seeds = [dataclasses.replace(config, seed=config.seed + i) for i in range(config.seeds)]
    builds = [partial(build, VARIANTS[name], each, dataset) for each in of_seeds for name in config.names]
    run_all(builds, drawings.closing_words, invocation)
    for each in of_seeds if len(config.names) > 1 and is_first() else ():
        folders = {VARIANTS[name]: folder_of(each, name) for name in config.names}
        sheet = drawings.draw_sheet(config.out / "arcloss" / f"sheet_seed{each.seed}.png", folders, dataset)
        pages = drawings.draw_variants(config.out / "arcloss" / f"index_seed{each.seed}.html", folders, dataset)
        print(f"the {len(folders)} of them side by side: {pages} and {sheet}")


def build(variant: Variant, config: Config, dataset: Dataset) -> Experiment:
    """The variant as `run` takes it, with its data on the devices.

    Raises:
      UserError: for arguments that do not fit the data or this machine.
    """
    head, margin, scale = build_head(config, len(dataset.classes), config.data)
    plan = EpochPlan.of(len(dataset.train.labels), config.batch_size or variant.batch_size, config.steps_per_epoch)
    mesh = mesh_of(config.devices)
    model = models.create(variant.name)
    check_takes(model, dataset.test.images.shape[1:])
    net_optimizer, learning_rate = build_optimizer(variant.net, plan.steps)
    head_optimizer, _ = build_optimizer(variant.head, plan.steps)
    state = create_train_state(
        jax.random.key(config.seed),
        model,
        head,
        dataset.train.images,
        net_optimizer=net_optimizer,
        head_optimizer=head_optimizer,
    )
    placed = parallel.place(dataset, mesh)
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
            **recorded_data(config.data, dataset, plan),
        },
        epochs=config.epochs,
        plan=plan,
        mesh=mesh,
        state=state,
        train=placed.train,
        test=placed.test,
        learning_rate=learning_rate,
        measure=drawings.measure(dataset),
        draw_epoch=drawings.draw_epoch(variant, dataset),
        draw_run=drawings.draw_run(
            variant, dataset, margin.m if isinstance(margin, (ArcFace, CurricularFace, ElasticArcFace)) else None
        ),
        evaluation_batch=evaluation_batch(dataset.test.images.shape[1:]),
    )


def build_optimizer(recipe: Adam | Sgd, steps_per_epoch: int) -> tuple[Any, Callable[[int], float]]:
    """The optimiser of a recipe, and its learning rate in an epoch counted from 0."""
    if isinstance(recipe, Adam):
        return optim.adam(recipe.learning_rate), lambda epoch: recipe.learning_rate
    if recipe.decay_every is None:
        return optim.sgd(recipe.learning_rate, recipe.momentum), lambda epoch: recipe.learning_rate
    schedule = optim.step_lr(
        recipe.learning_rate, steps_per_epoch=steps_per_epoch, step_size=recipe.decay_every, gamma=recipe.decay
    )
    return optim.sgd(schedule, recipe.momentum), lambda epoch: float(schedule(epoch * steps_per_epoch))


def folder_of(config: Config, name: str) -> Path:
    return config.out / "arcloss" / name / f"seed{config.seed}"
