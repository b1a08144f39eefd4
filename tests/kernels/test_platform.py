"""How programs are compiled for a platform."""

import jax
import jax.numpy as jnp
import pytest

from kernels import platform


@pytest.fixture(autouse=True)
def forgotten():
    platform.quick_compilation.cache_clear()
    yield
    platform.quick_compilation.cache_clear()


def test_quick_compilation_is_taken_by_this_xla_and_gives_the_same():
    options = platform.quick_compilation()
    assert options["xla_backend_optimization_level"] == 1
    x = jnp.linspace(-3, 3, 1000)
    quick = jax.jit(lambda x: jnp.exp(-x * x).sum(), compiler_options=options)(x)
    assert quick == pytest.approx(float(jnp.exp(-x * x).sum()), rel=1e-6)


def test_options_that_this_xla_lacks_are_left_out(monkeypatch):
    monkeypatch.setattr(platform, "_QUICK", {"xla_cpu_no_such_option": True, "xla_backend_optimization_level": 1})
    assert platform.quick_compilation() == {"xla_backend_optimization_level": 1}


def test_other_platforms_compile_as_they_do(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert platform.quick_compilation() is None
