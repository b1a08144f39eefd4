"""The JAX home of angular-margin learning: pure functions and Flax Linen modules."""

import importlib.util as _util
from pathlib import Path as _Path

_spec = _util.find_spec("kernels")
_places = list(_spec.submodule_search_locations or []) if _spec else []
if not any((_Path(place) / "margin_softmax").is_dir() for place in _places):
    raise ImportError(
        f"the package `kernels` found at {_places[0] if _places else 'no place'} is not the one of jaxnets: another "
        "distribution of that name hides it; uninstall that one (pip uninstall kernels) or use a virtual environment "
        "without it",
        name="kernels",
    )

from jaxnets.adacos import AdaCos
from jaxnets.binary_losses import BinaryHead, SphereFace2, UniFace, binary_margin_loss
from jaxnets.data import Dataset, Split, load
from jaxnets.epochs import Evaluation, evaluate, train_epoch
from jaxnets.heads import MarginHead, ScoresHead
from jaxnets.inference import eval_step
from jaxnets.losses import adacos_scale, margin_softmax_loss, sharded_margin_softmax_loss
from jaxnets.margins import (
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    NormFace,
    SphereFace,
    Tutorial,
)
from jaxnets.models import create
from jaxnets.optim import adam, sgd, step_lr
from jaxnets.sharded_head import ShardedMarginHead
from jaxnets.train import TrainState, create_train_state, train_step
from kernels.platform import quick_compilation

__all__ = [
    "AdaCos",
    "AdaFace",
    "ArcFace",
    "BinaryHead",
    "Combined",
    "CosFace",
    "CurricularFace",
    "Dataset",
    "ElasticArcFace",
    "ElasticCosFace",
    "Evaluation",
    "MagFace",
    "MarginHead",
    "NormFace",
    "ScoresHead",
    "ShardedMarginHead",
    "SphereFace",
    "SphereFace2",
    "Split",
    "TrainState",
    "Tutorial",
    "UniFace",
    "adacos_scale",
    "adam",
    "binary_margin_loss",
    "create",
    "create_train_state",
    "eval_step",
    "evaluate",
    "load",
    "margin_softmax_loss",
    "quick_compilation",
    "sgd",
    "sharded_margin_softmax_loss",
    "step_lr",
    "train_epoch",
    "train_step",
]
