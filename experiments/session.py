"""What a command sets up before JAX starts."""

import os
from pathlib import Path

import jax


def prepare() -> None:
    """Keeps compiled programs between runs, in JAX_COMPILATION_CACHE_DIR if set, else under ~/.cache/jaxnets."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxnets" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
