import gzip
import struct

import jax
import numpy as np
import pytest

from jaxnets import load


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder in MNIST's format: 160 of its training and 100 of its test images, so that an epoch is a few steps."""
    folder = tmp_path_factory.mktemp("digits")
    mnist = load("mnist")
    for name, split, count in (("train", mnist.train, 160), ("t10k", mnist.test, 100)):
        images, labels = np.asarray(split.images[:count]), np.asarray(split.labels[:count], np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">HBBIII", 0, 8, 3, count, 28, 28) + images.tobytes())
        )
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, count) + labels.tobytes())
    return folder


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory):
    """One folder of kept programs for every run of the session."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def _own_compiled_programs(compiled_programs, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled_programs))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(compiled_programs))
    yield
    jax.config.update("jax_compilation_cache_dir", before)
