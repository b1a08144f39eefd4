"""A training on identities made into an experiment, and the runs of a command."""

import dataclasses
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.recognition import drawings
from experiments.recognition.comparison import compare
from experiments.recognition.config import Config
from experiments.recognition.judging import ENROLLED, Roles
from experiments.recognition.optimizing import LEARNING_RATES, build_optimizers, build_schedule
from experiments.run.experiment import Experiment, check_takes, mesh_of, recorded_data
from experiments.run.loop import run_all
from experiments.run.margin import Split, build_head
from experiments.run.pictures import load
from experiments.run.processes import is_first
from experiments.run.session import Invocation
from experiments.run.terminal import UserError, as_user_error
from jaxnets import models, parallel
from jaxnets.augment import augment
from jaxnets.data import Dataset
from jaxnets.data import Split as Pictures
from jaxnets.distort import Distortion, distort
from jaxnets.epochs import EpochPlan, evaluation_batch
from jaxnets.models.embedding_norm import EmbeddingNorm
from jaxnets.train import Augment, create_train_state


def train(config: Config, invocation: Invocation) -> None:
    """Trains on the identities that the command line names, with one margin after the other, and compares them."""
    mesh_of(config.devices)
    dataset = load(config.data, size=config.size, skip_unreadable=config.skip_unreadable, open_set=True)
    for note in dataset.notes:  # with each font's digest in config.json
        print(f"note: {re.sub(', SHA-256 [0-9a-f]{64}', '', note)}")
    each = [dataclasses.replace(config, margin=name) for name in config.margins]
    run_all([partial(build, one, dataset) for one in each], drawings.closing_words, invocation)
    if len(each) > 1 and is_first():
        folders = {one.margin: folder_of(one) for one in each}
        stem = config.out / "recognition" / config.model / f"margins_seed{config.seed}"
        print(compare(stem, folders, dataset.name))


def build(config: Config, dataset: Dataset) -> Experiment:
    """The training as `run` takes it, with its data on the devices.

    Raises:
      UserError: for arguments that do not fit the data or this machine.
    """
    labels = np.asarray(dataset.test.labels)
    Roles.of(labels, dataset.sources)  # refuses a test without two pictures of an identity before training
    num_classes = int(np.max(dataset.train.labels)) + 1  # training's come first
    mesh = mesh_of(config.devices)
    split = Split(mesh, config.sample) if config.shard_classes else None
    head, margin, scale = build_head(config, num_classes, config.data, split)
    plan = EpochPlan.of(len(dataset.train.labels), config.batch_size, config.steps_per_epoch)
    model = build_model(config, dataset.train.images.shape[1:])
    schedule = build_schedule(config, config.epochs, plan.steps)
    net_optimizer, head_optimizer = build_optimizers(config, schedule)
    is_drawing = dataset.train.images.shape[3] == 1
    if config.elastic and not is_drawing:
        raise UserError("--elastic is for drawings, of one channel, and these pictures have three")
    distortion = Distortion(elastic=config.elastic)
    state = create_train_state(
        jax.random.key(config.seed),
        model,
        head,
        dataset.train.images,
        net_optimizer=net_optimizer,
        head_optimizer=head_optimizer,
        augment=(_distorting(distortion) if is_drawing else augment) if config.augment else None,
        averaging=config.averaging,
    )
    placed = parallel.place(dataset, mesh)
    return Experiment(
        name=f"{config.model} {config.margin}",
        directory=folder_of(config),
        config={
            "variant": config.model,
            "embedding": config.embedding,
            "embedding_norm": config.embedding_norm,
            "dtype": config.dtype,
            "optimizer": config.optimizer,
            "learning_rate": LEARNING_RATES[config.optimizer] if config.lr is None else config.lr,
            "schedule": f"{config.warmup:g} epochs of warm-up, cosine to zero after {config.epochs}",
            "weight_decay": config.weight_decay,
            "clip": config.clip,
            "augment": _told(distortion) if config.augment and is_drawing else config.augment,
            "averaging": config.averaging,
            "seed": config.seed,
            "margin": {"name": config.margin, **dataclasses.asdict(margin)},
            "margin_grad": config.margin_grad,
            "subcenters": config.subcenters,
            **({"shard_classes": True, "sample": config.sample} if config.shard_classes else {}),
            "scale": scale,
            "min_norm": config.min_norm,
            "enrolled": ENROLLED,
            **_gallery(dataset),
            **recorded_data(config.data, dataset, plan),
            "data_notes": [*dataset.notes],
            "classes": [*dataset.classes[:num_classes]],
        },
        epochs=config.epochs,
        plan=plan,
        mesh=mesh,
        state=state,
        train=placed.train,
        # To the head, an unseen identity is no class: it has no loss and no accuracy.
        test=Pictures(placed.test.images, np.full(len(labels), -1, np.int32)),
        learning_rate=lambda epoch: float(schedule(epoch * plan.steps)),
        measure=drawings.measure(labels, dataset.pairs, dataset.sources),
        draw_epoch=lambda folder, line: None,
        draw_run=drawings.draw_run(f"{config.model} · {config.margin}", dataset),
        evaluation_batch=evaluation_batch(dataset.test.images.shape[1:]),
    )


def build_model(config: Config, image_shape: tuple[int, ...]) -> nn.Module:
    """The network with embeddings of --embedding dimensions, for images [H, W, C].

    Raises:
      UserError: for an unknown network, and one that does not take such images.
    """
    with as_user_error(ValueError):
        model = models.create(config.model, config.embedding, dtype=_dtype(config.dtype))
    check_takes(model, image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    outputs, _ = jax.eval_shape(partial(model.init_with_output, train=False), jax.random.key(0), image)
    if outputs.shape[1] != config.embedding:
        raise UserError(
            f"{config.model} makes {outputs.shape[1]} numbers of images of {image_shape[0]}×{image_shape[1]}, and not "
            f"{config.embedding}: give another --model or --size"
        )
    return EmbeddingNorm(model) if config.embedding_norm else model


def _dtype(name: str) -> Any:
    return None if name == "float32" else name  # None: the images' dtype, float32


@cache
def _gallery(dataset: Dataset) -> dict[str, list[str]]:
    """The sources that enrol, where not all do: with others, a run's epochs would not compare."""
    sources = dataset.sources
    if sources is None or sources.enrols.all():
        return {}
    return {"gallery": [name for name, enrols in zip(sources.names, sources.enrols, strict=True) if enrols]}


def _distorting(distortion: Distortion) -> Augment:
    """One function for equal distortions, so that the states of several margins share its compiled program."""
    return partial(distort, distortion=distortion)


def _told(distortion: Distortion) -> dict[str, Any]:
    """Its numbers; without an elastic map's where there is none."""
    numbers = dataclasses.asdict(distortion)
    return numbers if distortion.elastic else {k: v for k, v in numbers.items() if k not in ("elastic", "smoothness")}


def folder_of(config: Config) -> Path:
    return config.out / "recognition" / config.model / config.margin / f"seed{config.seed}"
