"""The gender study: Mynn, a network of a dozen lines, against the larger ones, on photographs or on drawn faces.

python -m experiments.mynn
python -m experiments.mynn --model all --data folder:PHOTOGRAPHS
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
    OptionalPath,
    UserError,
    check_counts,
    check_seed,
    main,
    parse,
    said_by_a_library,
)

if TYPE_CHECKING:
    from experiments.mynn_data import Streamed
    from experiments.run import Experiment
    from jaxnets.data import Dataset

STARTED = time.perf_counter()
NETWORKS = ("mynn", "resnet18", "resnet50", "regnet_x_400mf", "mobilenet_v2", "vgg16")  # that the study compares
MOMENTUM = 0.9  # of --optimizer sgd
# The study names neither optimiser nor rate; Adam's is PyTorch's default.
LEARNING_RATES = {"sgd": 0.01, "adam": 1e-3}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a classifier of the gender study, and draw how it went and what it gets wrong."""

    model: str = "mynn"
    """mynn, mynn_relu, resnet18, resnet50, regnet_x_400mf, mobilenet_v2 or vgg16; or all, to compare the study's six"""
    data: str = "faces"
    """faces (drawn by this program), folder:PATH (class folders of pictures), tfds:celeb_a or another tfds:NAME"""
    size: int = 224
    """height and width to which pictures are brought"""
    epochs: int = 10
    """the study itself ran 50"""
    batch_size: int = 64
    """examples a step"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd has momentum 0.9"""
    lr: OptionalFloat = None
    """the learning rate; by default 0.01 for sgd and 0.001 for adam"""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine falls to zero over the whole run"""
    augment: bool = False
    """flip, crop and colour the training pictures at random"""
    averaging: OptionalFloat = None
    """evaluate the running average of the weights, of which a step keeps this share: 0.999, say"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """what the network computes in; weights are float32"""
    pretrained: OptionalPath = None
    """begin with the weights of a .pth or .safetensors file; those of another shape, as its last layer's, stay fresh"""
    steps_per_epoch: OptionalInt = None
    """stop each epoch after so many batches"""
    seed: int = 0
    """decides the initial weights and the order of the pictures"""
    stream: bool = False
    """decode the pictures of a folder: or tfds: as they are needed, for sets that do not fit on the disk"""
    skip_unreadable: bool = False
    """leave out pictures that cannot be read, and name them"""
    out: Path = Path("runs")
    """the run's folder will be OUT/mynn/MODEL/seedSEED"""
    devices: int = 1
    """train data-parallel over so many"""
    fresh: bool = False
    """start over instead of going on with what the run's folder holds"""
    keep_memory: bool = True
    """on Linux, keep freed memory for the next step and do not give it back to the system: faster on a CPU"""
    verbose: bool = False
    """say what was set up before the run"""


def command(config: Config) -> None:
    names = list(NETWORKS) if config.model == "all" else [config.model]
    _check(config)

    from experiments.session import prepare  # JAX is imported from here on, not for --help

    prepare(keep_memory=config.keep_memory, verbose=config.verbose)
    from experiments import mynn_drawings as drawings
    from experiments.mynn_data import load, open_stream
    from experiments.run import run_all

    dataset = open_stream(config) if config.stream else load(config)
    for note in dataset.notes:
        print(f"note: {note}")
    builds = [partial(build, name, config, dataset) for name in names]
    run_all(builds, partial(drawings.closing_words, dataset.name), fresh=config.fresh, started=STARTED)
    if len(names) > 1:
        folders = {name: folder_of(config, name) for name in names}
        table, picture = drawings.compare(config.out / "mynn" / f"comparison_seed{config.seed}", folders, dataset.name)
        print(f"{table}\nthe same as a picture: {picture}")


def _check(config: Config) -> None:
    known = (*NETWORKS, "mynn_relu", "all")
    if config.model not in known:
        from jaxnets.naming import nearest

        raise UserError(f"there is no model {config.model!r}{nearest(config.model, known)}")
    check_counts(config, ("size", "epochs", "batch_size", "steps_per_epoch", "devices"))
    check_seed(config.seed)
    if config.lr is not None and not (math.isfinite(config.lr) and config.lr > 0):
        raise UserError(f"--lr must be a positive number, not {config.lr}")
    is_stored = config.data.startswith(("folder:", "tfds:"))
    if config.stream and (not is_stored or config.skip_unreadable or config.devices > 1):
        raise UserError("--stream is for --data folder:PATH or tfds:NAME on one device, and not with --skip-unreadable")
    if config.pretrained is not None and config.model == "all":
        raise UserError("--pretrained holds the weights of one network: name it with --model, not all")


def build(name: str, config: Config, dataset: "Dataset | Streamed") -> "Experiment":
    """The training of one network as `run` takes it, with its data on the devices if they fit there."""
    import jax

    from experiments import mynn_drawings as drawings
    from experiments.mynn_data import Streamed
    from experiments.run import Experiment
    from jaxnets import models, optim, parallel
    from jaxnets.augment import augment
    from jaxnets.epochs import Epoch
    from jaxnets.heads import ScoresHead
    from jaxnets.train import create_train_state

    num_train = len(dataset.train if isinstance(dataset, Streamed) else dataset.train.labels)
    cut = Epoch.of(num_train, config.batch_size, config.steps_per_epoch)
    rate = LEARNING_RATES[config.optimizer] if config.lr is None else config.lr
    schedule = _schedule(config, rate, cut.steps * config.epochs)
    with said_by_a_library(ValueError):
        mesh = parallel.data_mesh(config.devices)
        state = create_train_state(
            jax.random.key(config.seed),
            models.create(name, len(dataset.classes), dtype=config.dtype),
            ScoresHead(),
            dataset.test.images,
            net_optimizer=optim.sgd(schedule, MOMENTUM) if config.optimizer == "sgd" else optim.adam(schedule),
            head_optimizer=optim.sgd(0.0),
            augment=augment if config.augment else None,
            averaging=config.averaging,
        )
        placed = dataset if isinstance(dataset, Streamed) else parallel.place(dataset, mesh)
    if config.pretrained is not None:
        state, left = begin_with(state, name, config.pretrained)
        print(f"begins with {config.pretrained}" + (f", but {', '.join(left)} fresh" if left else ""))
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
            "seed": config.seed,
            "batch_size": cut.batch_size,
            "steps_per_epoch": cut.steps,
            "data": config.data,
            "data_fingerprint": dataset.fingerprint(),
            "image_shape": [*dataset.test.images.shape[1:]],
            "classes": [*dataset.classes],
        },
        epochs=config.epochs,
        cut=cut,
        state=parallel.replicate(state, mesh),
        train=placed.train,
        test=placed.test,
        learning_rate=lambda epoch: float(schedule(epoch * cut.steps)) if callable(schedule) else schedule,
        measure=drawings.measure,
        draw_epoch=lambda folder, line: None,
        draw_run=drawings.draw_run(name, dataset.test, dataset.classes, dataset.name, cut.steps),
        evaluation_batch=config.batch_size,
        take=None if config.devices == 1 else parallel.sharded_take_steps(mesh),
    )


def _schedule(config: Config, rate: float, steps: int) -> float | Callable[..., Any]:
    import optax

    return rate if config.schedule == "constant" else optax.cosine_decay_schedule(rate, steps)


def begin_with(state: Any, name: str, file: Path) -> tuple[Any, list[str]]:
    """The state with the weights of a file, and the names of the arrays that have another shape there and stay fresh.

    Raises:
      UserError: for a file that cannot be read or is another network's, or where every array has another shape.
    """
    import jax
    import jax.numpy as jnp

    from jaxnets import torch_weights

    with said_by_a_library(ValueError):
        variables = torch_weights.from_torch(name, file)
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
    import hashlib

    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def folder_of(config: Config, name: str) -> Path:
    return config.out / "mynn" / name / f"seed{config.seed}"


if __name__ == "__main__":
    main(lambda: command(parse(Config, "python -m experiments.mynn")))
