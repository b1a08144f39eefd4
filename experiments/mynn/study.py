"""A network of the gender study made into an experiment, and the runs of a command."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.mynn import drawings
from experiments.mynn.config import DEFAULT_SIZE, Config
from experiments.run.experiment import Experiment, check_takes, mesh_of, recorded_data
from experiments.run.loop import run_all
from experiments.run.pictures import Streamed, load, open_stream
from experiments.run.processes import is_first
from experiments.run.session import Invocation
from experiments.run.terminal import UserError, as_user_error
from experiments.trained.network import expects_imagenet
from jaxnets import models, optim, parallel, torch_weights
from jaxnets.augment import augment
from jaxnets.data import Dataset
from jaxnets.epochs import EpochPlan
from jaxnets.heads import ScoresHead
from jaxnets.models.normalized import Normalized
from jaxnets.naming import quoted
from jaxnets.train import TrainState, create_train_state

MOMENTUM = 0.9  # of --optimizer sgd
# The study names neither optimiser nor rate; Adam's is PyTorch's default.
LEARNING_RATES = {"sgd": 0.01, "adam": 1e-3}


def train(config: Config, invocation: Invocation) -> None:
    """Trains the networks that the command line names, one after the other, and compares them."""
    mesh = mesh_of(config.devices)
    if config.stream:
        dataset: Dataset | Streamed = open_stream(
            config.data,
            size=config.size or DEFAULT_SIZE,
            batch_size=config.batch_size,
            seed=config.seed,
            skip_unreadable=config.skip_unreadable,
            share=parallel.share_of_process(mesh),
        )
    else:
        dataset = load(config.data, size=config.picture_size, skip_unreadable=config.skip_unreadable)
    for note in dataset.notes:
        print(f"note: {note}")
    builds = [partial(build, name, config, dataset) for name in config.names]
    run_all(builds, partial(drawings.closing_words, dataset.name), invocation)
    if len(builds) > 1 and is_first():
        folders = {name: folder_of(config, name) for name in config.names}
        table, page = drawings.compare(config.out / "mynn" / f"comparison_seed{config.seed}", folders, dataset.name)
        print(f"{table}\nthe same as a page: {page}")


def build(name: str, config: Config, dataset: Dataset | Streamed) -> Experiment:
    """The training of one network as `run` takes it, with its data on the devices if they fit there.

    Raises:
      UserError: for arguments that do not fit the network, the data or this machine.
    """
    num_train = len(dataset.train if isinstance(dataset, Streamed) else dataset.train.labels)
    plan = EpochPlan.of(num_train, config.batch_size, config.steps_per_epoch)
    rate = LEARNING_RATES[config.optimizer] if config.lr is None else config.lr
    schedule = _schedule(config, rate, plan.steps * config.epochs)
    model = models.create(name, len(dataset.classes), dtype=config.dtype)
    given = None if config.pretrained is None else _read(name, config.pretrained)
    is_normalized = given is not None and expects_imagenet(name, given, config.inputs)
    if is_normalized:
        model = Normalized(model)
    check_takes(model, dataset.test.images.shape[1:])
    mesh = mesh_of(config.devices)
    state = create_train_state(
        jax.random.key(config.seed),
        model,
        ScoresHead(),
        dataset.test.images,
        net_optimizer=optim.sgd(schedule, MOMENTUM) if config.optimizer == "sgd" else optim.adam(schedule),
        head_optimizer=optim.sgd(0.0),
        augment=augment if config.augment else None,
        averaging=config.averaging,
    )
    placed = dataset if isinstance(dataset, Streamed) else parallel.place(dataset, mesh)
    if given is not None:
        state, left = begin_with(state, name, given, quoted(config.pretrained))
        print(
            f"begins with {quoted(config.pretrained)}"
            + (f", but {', '.join(left)} fresh" if left else "")
            + ("; images are normalised by ImageNet's mean and standard deviation" if is_normalized else "")
        )
    return Experiment(
        name=name,
        directory=folder_of(config, name),
        config={
            "variant": name,
            "optimizer": config.optimizer,
            "learning_rate": rate,
            "schedule": config.schedule if config.schedule == "constant" else f"cosine over {config.epochs} epochs",
            "augment": config.augment,
            "averaging": config.averaging,
            "stream": config.stream,
            "dtype": config.dtype,
            "pretrained": _sha256(config.pretrained),
            **({"inputs": "imagenet"} if is_normalized else {}),
            "seed": config.seed,
            **recorded_data(config.data, dataset, plan),
        },
        epochs=config.epochs,
        plan=plan,
        mesh=mesh,
        state=state,
        train=placed.train,
        test=placed.test,
        learning_rate=lambda epoch: float(schedule(epoch * plan.steps)) if callable(schedule) else schedule,
        measure=drawings.measure,
        draw_epoch=lambda folder, line: None,
        draw_run=drawings.draw_run(name, dataset.test, dataset.classes, dataset.name, plan.steps),
        evaluation_batch=config.batch_size,
    )


def _schedule(config: Config, rate: float, steps: int) -> float | Callable[..., Any]:
    if config.schedule == "constant":
        return rate
    return optim.counted_in_floats(optax.cosine_decay_schedule(rate, steps))


def _read(name: str, file: Path) -> Mapping[str, Any]:
    with as_user_error(ValueError):
        return torch_weights.from_torch(name, file)


def begin_with(state: TrainState, name: str, variables: Mapping[str, Any], file: str) -> tuple[TrainState, list[str]]:
    """The state with the weights of a file, and the names of the arrays that have another shape there and stay fresh.

    All of them are trained on, BatchNorm's statistics too.

    Raises:
      UserError: where more than a last layer has another shape.
    """
    fresh = {"params": state.params["net"], "batch_stats": state.batch_stats}
    taken = jax.tree.map(
        lambda ours, theirs: jnp.asarray(theirs) if ours.shape == theirs.shape else ours,
        fresh,
        {kind: variables[kind] for kind in fresh},
    )
    is_fresh = jax.tree.leaves_with_path(jax.tree.map(lambda a, b: a is b, taken, fresh))
    left = [jax.tree_util.keystr(path[1:], simple=True, separator=".") for path, fresh in is_fresh if fresh]
    if len(left) > 2:  # a last layer's kernel and bias
        raise UserError(f"{file} holds {name}'s weights for images of another size or kind: {len(left)} arrays differ")
    params = {**state.params, "net": taken["params"]}
    begun = state.replace(params=params, batch_stats=taken["batch_stats"])
    if begun.averages:
        averages = {"params": params, "batch_stats": taken["batch_stats"]}
        begun = begun.replace(averages=jax.tree.map(jnp.copy, averages))
    return begun, left


def _sha256(file: Path | None) -> str | None:
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def folder_of(config: Config, name: str) -> Path:
    return config.out / "mynn" / name / f"seed{config.seed}"
