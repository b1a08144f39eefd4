"""Settings that commands make before JAX starts. Importing the library changes none of them."""

import ctypes
import os
import sys
from pathlib import Path
from typing import NamedTuple

from experiments.run import processes
from experiments.run.terminal import UserError, as_user_error

# Names and numbers of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


class Invocation(NamedTuple):
    """How a command was called: its line, which the run's folder keeps, when by `time.perf_counter`, and --fresh."""

    line: str
    started: float
    fresh: bool = False


def prepare(*, keep_memory: bool = True, verbose: bool = False, count: int | None = None) -> None:
    """Keeps compiled programs between runs and, unless told not to, freed memory within one; says so if `verbose`.

    With a `count` above 1, the command goes on in so many processes, and this one ends with them.

    Raises:
      UserError: where a launcher has started another number of processes.
    """
    is_launched = processes.is_launched()
    if not is_launched and (count or 1) > 1:
        processes.start(count or 1)
    kept = keep_memory and keep_freed_memory()
    import jax

    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not programs:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        programs = str(home / "jaxnets" / "xla")
        jax.config.update("jax_compilation_cache_dir", programs)
    # All of them: compiling the many small ones anew would take a second of each start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if is_launched:
        with as_user_error(ValueError):
            processes.join()
        if count not in (None, processes.number_of()):
            raise UserError(f"--processes {count} was asked for, and the launcher started {processes.number_of()}")
    if verbose:
        print(f"compiled programs are kept in {programs}")
        print("freed memory is kept for reuse" if kept else "freed memory is left to the C library")


def keep_freed_memory() -> bool:
    """Tells glibc to reuse large buffers and not give them back to the system after each use.

    A training step on the CPU allocates its activations anew. If their pages go back to the system, each one costs a
    page fault and is cleared at its next use. For threads other than the main one, glibc gives memory back in any case,
    so JAX has to compute in the main thread. Call this before threads start and before JAX computes. Returns False if
    the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
    kept = all(mallopt(parameter, value) == 1 for parameter, value in settings)
    if kept:
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return kept
