import os

# Eight virtual devices let every test of data parallelism run on any CPU; read once, when the backend starts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what is marked slow, compile sooner")
    parser.addoption("--interpreted", action="store_true", help="the margin softmax's contract for the Hopper kernel")


def pytest_configure(config: pytest.Config) -> None:
    # Compiling takes most of the tests' time, and LLVM's passes a good part of that. Without --quick they test programs
    # as users have them.
    if config.getoption("--quick"):
        os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        skip = pytest.mark.skip(reason="slow, and --quick was given")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
