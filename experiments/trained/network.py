"""A trained network out of a run's folder, or out of a file of PyTorch weights: what exporting and predicting share."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.run.progress import variables_of
from experiments.run.records import read_json
from experiments.run.terminal import UserError, as_user_error
from jaxnets import checkpoint, export, models, torch_weights
from jaxnets.export import Program
from jaxnets.models.conv_stack import BACKBONES
from jaxnets.torch_weights.names import Free, entries

LARGEST_IMAGE = 512  # pixels a side, of those that a file's weights are tried with


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network called `name` with its weights; `origin` says which they are.

    `class_weights`, [C, D] or [C, K, D], are those of a margin head, None where there is none. `classes` are numbers
    where nothing says their names.
    """

    name: str
    origin: str
    model: nn.Module
    variables: Mapping[str, Any]
    class_weights: Any
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]

    def program(self, output: str) -> Program:
        """The network up to its "embeddings", or to "scores": cosines, where it has a margin head.

        Raises:
          UserError: for embeddings of a network that makes scores, and for scores where there are no class weights.
        """
        if self.class_weights is None and (output == "embeddings") != (self.name in BACKBONES):
            raise UserError(
                f"{self.origin} holds no class weights (head.weight): {self.name} makes embeddings of images, and no "
                "scores without them; a run's folder has them"
                if output == "scores"
                else f"{self.name} was trained without a margin head: it makes scores of images, and no embeddings"
            )
        if output == "embeddings":
            return export.embeddings(self.model, self.variables, self.image_shape)
        return export.scores(self.model, self.variables, self.image_shape, self.class_weights)


def load(source: Path, model: str | None) -> Trained:
    """The network of a run's folder, in its best state (its last before the first epoch's end), or of a weights file.

    Args:
      source: the folder or file.
      model: the network of a file, and None for a folder, which says so itself.

    Raises:
      UserError: for anything else, in one sentence.
      OSError: where it cannot be read.
    """
    if not source.exists():
        raise UserError(f"{source}: there is no such run's folder or weights file")
    return _of_run(source, model) if source.is_dir() else _of_file(source, model)


def state_of_run(
    folder: Path, model: str | None, kinds: tuple[str, ...]
) -> tuple[dict[str, Any], str, dict[str, dict[str, Any]]]:
    """A run's configuration; its state, in words, and its variables {"params", "batch_stats"}, "head" if it has one.

    Args:
      folder: the run's.
      model: what the user takes it for; None to go by the folder.
      kinds: of checkpoints, "best" or "last": the first that there is.

    Raises:
      UserError: for a folder that is no run's, or another network's, or has none of these checkpoints.
    """
    try:
        recorded = read_json(folder / "config.json")["config"]
        name, *_ = recorded["variant"], recorded["image_shape"], recorded["classes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is no run's folder: a config.json that says its variant and classes is not there"
        ) from error
    if model not in (None, name):
        raise UserError(f"{folder} is a run of {name}, not of {model}: leave --model to weights files")
    for kind in kinds:
        found = checkpoint.restore(folder / "checkpoints" / kind)
        if found is not None:
            step, tree = found
            return recorded, f"the {kind} state of {folder}, after {step} steps", variables_of(tree)
    raise UserError(f"{folder} has no {' or '.join(kinds)} checkpoint yet: the run did not come so far")


def _of_run(folder: Path, model: str | None) -> Trained:
    recorded, origin, variables = state_of_run(folder, model, ("best", "last"))
    head = variables.pop("head", {})
    trained = _trained(recorded["variant"], origin, variables, head.get("class_weights"))
    height, width, channels = recorded["image_shape"]
    return dataclasses.replace(trained, image_shape=(height, width, channels), classes=tuple(recorded["classes"]))


def _of_file(file: Path, model: str | None) -> Trained:
    if model is None:
        raise UserError(f"--model must say of which network {file} holds the weights: {', '.join(models.NAMES)}")
    with as_user_error(ValueError):
        models.create(model)  # a misspelt name is said before the file is read
        variables = torch_weights.from_torch(model, file)
    return _trained(model, str(file), variables, variables.get("head", {}).get("class_weights"))


def _trained(name: str, origin: str, variables: Mapping[str, Any], class_weights: Any) -> Trained:
    """What the weights alone say: the network's sizes, and how many classes there are."""
    sizes: dict[str, int] = {}
    for entry in entries(name):
        array: Any = variables
        for key in entry.path:
            array = array[key]
        sizes |= {
            axis.word: length // axis.multiple
            for axis, length in zip(entry.shape, array.shape, strict=True)
            if isinstance(axis, Free)
        }
    module = models.create(name, sizes["outputs"])
    image_shape = _image_shape(name, module, variables["params"], sizes["channels"])
    num_classes = sizes["outputs"] if class_weights is None else len(class_weights)
    return Trained(name, origin, module, variables, class_weights, image_shape, tuple(map(str, range(num_classes))))


def _image_shape(name: str, module: nn.Module, params: Mapping[str, Any], channels: int) -> tuple[int, int, int]:
    """That of the network's study, or else the smallest square that has these weights."""
    wanted = jax.tree.map(lambda leaf: leaf.shape, params)
    for size in (28 if name in BACKBONES else 224, *range(8, LARGEST_IMAGE + 1)):
        images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
        try:
            variables = jax.eval_shape(lambda images: module.init(jax.random.key(0), images, train=False), images)
        except ValueError:  # too small for it, or no size that it takes
            continue
        if jax.tree.map(lambda leaf: leaf.shape, variables["params"]) == wanted:
            return size, size, channels
    raise UserError(f"these weights of {name} are for no square image of up to {LARGEST_IMAGE} pixels a side")
