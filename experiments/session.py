"""What a command sets up before JAX starts. Never for a person who imports the library."""

import ctypes
import os
import sys
from pathlib import Path

# Names and numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def prepare() -> None:
    """Keeps compiled programs between runs, and freed memory within one."""
    keep_freed_memory()
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxnets" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_freed_memory() -> None:
    """Tells glibc to reuse large buffers and not give them back to the system after each use.

    A training step on the CPU allocates its activations anew; given back, each of their pages costs a fault and a
    clearing when it is next touched. It has to be said before threads start.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(parameter, value)
