"""A trained network out of a run's folder, or out of a file of PyTorch weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.run.options import Inputs
from experiments.run.progress import variables_of
from experiments.run.stored import check_network, read_begun
from experiments.run.terminal import UserError, as_user_error, counted
from jaxnets import checkpoint, export, models, torch_weights
from jaxnets.export import Program
from jaxnets.models.conv_stack import BACKBONES
from jaxnets.models.embedding_norm import NAME, folded
from jaxnets.models.normalized import IMAGENET_MEAN, Normalized
from jaxnets.naming import quoted
from jaxnets.torch_weights.names import Free, entries

LARGEST_IMAGE = 512  # the largest side, in pixels, that is tried for a file's weights
TORCHVISIONS = ("resnet18", "resnet50", "regnet_x_400mf", "mobilenet_v2", "vgg16")
IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network called `name` with its weights; `origin` says which they are.

    `class_weights`, [C, D] or [C, K, D], belong to a margin head; None without one. `classes` are numbers if no names
    are known. `is_run` tells a run from a file, which says less about the training.
    """

    name: str
    origin: str
    model: nn.Module
    variables: Mapping[str, Any]
    class_weights: Any
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    is_run: bool

    def program(self, output: str) -> Program:
        """The network up to its "embeddings", or to "scores": cosines, where it has a margin head.

        A network in a file without class weights may have been trained with a margin head, so its outputs may be taken
        as embeddings.

        Raises:
          UserError: for embeddings of a run of a classifier, for scores of a backbone without class weights, and for
            weights that are not finite.
        """
        if self.class_weights is None and output == "scores" and self.name in models.EMBEDDERS:
            raise UserError(
                f"{self.origin} holds no class weights (head.weight): {self.name} makes embeddings of images, and no "
                "scores without them; a run's folder has them"
            )
        if self.class_weights is None and output == "embeddings" and self.is_run:
            raise UserError(f"{self.name} was trained as a classifier: it makes scores of images, and no embeddings")
        with as_user_error(ValueError):
            if output == "embeddings":
                return export.embeddings(self.model, self.variables, self.image_shape)
            return export.scores(self.model, self.variables, self.image_shape, self.class_weights)


def load(source: Path, model: str | None, inputs: Inputs = "auto") -> Trained:
    """The network of a run's folder, in its best state (its last before the first epoch's end), or of a weights file.

    Args:
      source: the folder or file.
      model: the network of a file, and None for a folder, which says so itself.
      inputs: for a file, the images that its network expects; see `expects_imagenet`.

    Raises:
      UserError: for anything else, in one sentence.
      OSError: where it cannot be read.
    """
    if not source.exists():
        raise UserError(f"{quoted(source)}: there is no such run's folder or weights file")
    trained = _of_run(source, model) if source.is_dir() else _of_file(source, model, inputs)
    leaves = jax.tree.leaves_with_path({**trained.variables, "class_weights": trained.class_weights})
    broken = [jax.tree_util.keystr(path, simple=True, separator=".") for path, x in leaves if not np.isfinite(x).all()]
    if broken:
        raise UserError(
            f"{trained.origin} holds numbers that are not finite, in {counted(len(broken), 'array')} of {len(leaves)}"
            f" (as {quoted(broken[0])}): it cannot be used"
        )
    return trained


def state_of_run(
    folder: Path, model: str | None, kinds: tuple[str, ...]
) -> tuple[dict[str, Any], str, dict[str, dict[str, Any]]]:
    """A run's configuration; its state, in words, and its variables {"params", "batch_stats"}, "head" if it has one.

    Args:
      folder: the run's.
      model: the network's name as the user gave it; None for the folder's own.
      kinds: of checkpoints, "best" or "last": the first that there is.

    Raises:
      UserError: for a folder that is no run's, or another network's, or has none of these checkpoints or a damaged one.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{quoted(folder)} is no run's folder: it has no config.json")
    recorded = read_begun(file)["config"]
    check_network(recorded, file, models.NAMES)
    name = recorded["variant"]
    if model not in (None, name):
        raise UserError(f"{quoted(folder)} is a run of {name}, not of {quoted(model)}: leave --model to weights files")
    for kind in kinds:
        with as_user_error(checkpoint.CheckpointError):
            found = checkpoint.restore(folder / "checkpoints" / kind)
        if found is not None:
            step, tree = found
            origin = f"the {kind} state of {quoted(folder)}, after {step} steps"
            return recorded, origin, _folded(name, variables_of(tree))
    raise UserError(f"{quoted(folder)} has no {' or '.join(kinds)} checkpoint yet: the run did not come so far")


def _folded(name: str, variables: dict[str, Any]) -> dict[str, Any]:
    """A network's variables with the BatchNorm after its embeddings, if it has one, made part of its last layer."""
    if NAME not in variables["params"]:
        return variables
    sizes = ((entry.path[1], entry.shape[-1:]) for entry in entries(name))
    (layer,) = {layer for layer, size in sizes if size == (Free("outputs"),)}
    return {**variables, **folded({kind: variables[kind] for kind in ("params", "batch_stats")}, layer)}


def _of_run(folder: Path, model: str | None) -> Trained:
    recorded, origin, variables = state_of_run(folder, model, ("best", "last"))
    head = variables.pop("head", {})
    trained = _trained(recorded["variant"], origin, variables, head.get("class_weights"))
    height, width, channels = recorded["image_shape"]
    return dataclasses.replace(
        trained,
        model=Normalized(trained.model) if recorded.get("inputs") == "imagenet" else trained.model,
        image_shape=(height, width, channels),
        classes=tuple(recorded["classes"]),
        is_run=True,
    )


def expects_imagenet(name: str, variables: Mapping[str, Any], inputs: Inputs) -> bool:
    """Whether weights expect images less ImageNet's mean, divided by its standard deviation, and not just [0, 1].

    "auto" takes them for torchvision's, which do, where they are of a network of torchvision and tell 1,000 classes.

    Raises:
      UserError: for "imagenet" where images have no three channels.
    """
    found = sizes(name, variables)
    if inputs == "imagenet" and found["channels"] != len(IMAGENET_MEAN):
        raise UserError(f"--inputs imagenet is for images of 3 channels, not {found['channels']}")
    is_torchvisions = name in TORCHVISIONS and found["outputs"] == IMAGENET_CLASSES and found["channels"] == 3
    return is_torchvisions if inputs == "auto" else inputs == "imagenet"


def _of_file(file: Path, model: str | None, inputs: Inputs) -> Trained:
    if model is None:
        known = ", ".join(models.NAMES)
        raise UserError(f"--model must say of which network {quoted(file)} holds the weights: {known}")
    with as_user_error(ValueError):
        models.create(model)  # a misspelt name is said before the file is read
        variables = torch_weights.from_torch(model, file)
    trained = _trained(model, quoted(file), variables, variables.get("head", {}).get("class_weights"))
    if not expects_imagenet(model, variables, inputs):
        return trained
    origin = f"{quoted(file)} (on images less ImageNet's mean, divided by its standard deviation)"
    return dataclasses.replace(trained, model=Normalized(trained.model), origin=origin)


def sizes(name: str, variables: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a network's weights are free to have, as its "outputs" and "channels"."""
    found: dict[str, int] = {}
    for entry in entries(name):
        array: Any = variables
        for key in entry.path:
            array = array[key]
        found |= {
            axis.word: length // axis.multiple
            for axis, length in zip(entry.shape, array.shape, strict=True)
            if isinstance(axis, Free)
        }
    return found


def pytorch_class(name: str, variables: Mapping[str, Any]) -> str:
    """The module of PyTorch into which `load_state_dict` takes a network's weights, in words."""
    found = sizes(name, variables)
    outputs = found["outputs"]
    ours = f"outputs={outputs}) of experiments/torch_peer.py"
    if name in TORCHVISIONS:
        return f"torchvision.models.{name}(num_classes={outputs})"
    if name in BACKBONES:
        return f"Net(BACKBONES[{name!r}], channels={found['channels']}, {ours}"
    if name == "mynn_deep":
        return f"Net(MYNN_DEEP, channels={found['channels']}, {ours}"
    if name in models.IRESNETS:
        return f"{name}(num_features={outputs}) of insightface's arcface_torch"
    with_relu = " with nn.ReLU for nn.PReLU" if name == "mynn_relu" else ""
    return f"Mynn({ours}{with_relu}"


def _trained(name: str, origin: str, variables: Mapping[str, Any], class_weights: Any) -> Trained:
    """A network from its weights alone, which tell its sizes and the number of classes."""
    found = sizes(name, variables)
    module = models.create(name, found["outputs"])
    image_shape = _image_shape(name, module, variables["params"], found["channels"])
    num_classes = found["outputs"] if class_weights is None else len(class_weights)
    return Trained(
        name, origin, module, variables, class_weights, image_shape, tuple(map(str, range(num_classes))), False
    )


def _image_shape(name: str, module: nn.Module, params: Mapping[str, Any], channels: int) -> tuple[int, int, int]:
    """That of the network's study, or else the smallest square that has these weights."""
    wanted = jax.tree.map(lambda leaf: leaf.shape, params)
    studied = 28 if name in BACKBONES else 112 if name in models.IRESNETS else 224
    for size in (studied, *range(8, LARGEST_IMAGE + 1)):
        images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
        try:
            variables = jax.eval_shape(lambda images: module.init(jax.random.key(0), images, train=False), images)
        except ValueError:  # too small for it, or no size that it takes
            continue
        if jax.tree.map(lambda leaf: leaf.shape, variables["params"]) == wanted:
            return size, size, channels
    raise UserError(f"these weights of {name} are for no square image of up to {LARGEST_IMAGE} pixels a side")
