"""Which platform a program is traced for: the one it will run on, or none in particular."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_portable = ContextVar("portable", default=False)


def is_cpu() -> bool:
    """Whether what is traced now will run on a CPU, so that lowerings made for one are worth choosing."""
    return not _portable.get() and jax.default_backend() == "cpu"


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Within it, in this thread, programs are traced for any platform: of XLA's own operations, batch first.

    JAX keeps what it has traced, so trace a function there that was not traced outside.
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)
