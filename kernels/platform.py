"""Which platform a program is traced for: the one it will run on, or none in particular; and how to compile for it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

P = ParamSpec("P")
R = TypeVar("R")

_portable = ContextVar("portable", default=False)

# Of XLA:CPU: fewer of LLVM's passes.
_QUICK = {"xla_backend_optimization_level": 1}


def is_cpu() -> bool:
    """Whether the program that is traced now will run on a CPU, so that lowerings made for one are worth choosing."""
    return not _portable.get() and jax.default_backend() == "cpu"


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Within it, in this thread, programs are traced for any platform: of XLA's own operations, batch first.

    JAX keeps traces, so trace a function there that was not traced outside.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


@functools.cache
def quick_compilation() -> dict[str, bool | int] | None:
    """Compiler options for a training step: `jax.jit(train_step, compiler_options=quick_compilation())`.

    A step on a CPU is hundreds of small loops around matrix products, which XLA has from a library: little of its time
    depends on how well the loops are compiled, and much of the wait before it. Options that this version of XLA does
    not have are left out; None for other platforms.
    """
    if jax.default_backend() != "cpu":
        return None
    return {name: value for name, value in _QUICK.items() if _is_known(name, value)}


def jit_with(compiler_options: dict[str, bool | int] | None, function: Callable[P, R], **how: Any) -> Callable[P, R]:
    """`jax.jit(function, compiler_options=…, **how)`, without the options where it is part of another program.

    JAX refuses them there: under `jit`, `vmap`, `eval_shape` and the like, the outermost program's options hold.
    """
    whole, part = jax.jit(function, compiler_options=compiler_options, **how), jax.jit(function, **how)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # A constant is traced too where everything is.
        leaves = (*jax.tree.leaves((args, kwargs)), jnp.zeros(()))
        is_part = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        made: R = (part if is_part else whole)(*args, **kwargs)
        return made

    return call


def _is_known(name: str, value: bool | int) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
