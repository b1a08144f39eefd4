from pathlib import Path

import numpy as np
import pytest

from jaxnets import models
from jaxnets.models.conv_stack import BACKBONES, Backbone
from jaxnets.torch_weights import read
from tests.jaxnets.torch_weights import pickling


@pytest.fixture
def thin(monkeypatch):
    """The name of a thin network with a linear head: of a 12×12 image it flattens 5 channels of 2×2."""
    monkeypatch.setitem(BACKBONES, "thin", Backbone(((4, 5, 2), "M", (6, 3, 1), (5, 3, 0), "M")))
    monkeypatch.setattr(models, "NAMES", (*models.NAMES, "thin"))
    return "thin"


@pytest.fixture(scope="session")
def torch_files():
    """Files of that network as PyTorch wrote them; see tests/fixtures/make_torch_files.py."""
    return Path(__file__).parents[2] / "fixtures" / "torch_files"


@pytest.fixture(scope="session")
def expected(torch_files):
    """Its arrays, "weights/NAME", and what PyTorch makes of "images" [N, C, H, W]: "outputs"."""
    with np.load(torch_files / "expected.npz") as file:
        return dict(file)


@pytest.fixture
def thin_weights(expected):
    """Its state dict, BatchNorm's counters left out."""
    weights = {name.removeprefix("weights/"): value for name, value in expected.items() if name.startswith("weights/")}
    return {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(params=["zip", "legacy"])
def load(request, tmp_path):
    """Writes a file and reads it."""
    path = tmp_path / "net.pth"
    return lambda body, *more, **options: read(pickling.write(path, request.param, body, *more, **options))
