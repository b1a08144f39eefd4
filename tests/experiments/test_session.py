"""What commands set up before JAX starts."""

import os
import subprocess
import sys

import pytest

# What is said, then the faults of touching 64 MiB for the second time, once the first were freed.
TOUCH_TWICE = """
import ctypes, resource
from experiments.run.session import prepare
prepare(keep_memory={keep}, verbose=True)
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
faults = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    c.free(block)
print(faults[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_freed_memory_is_kept_unless_told_otherwise(tmp_path):
    found = {}
    for keep in (True, False):
        code = TOUCH_TWICE.format(keep=keep)
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
        *said, faults = ended.stdout.splitlines()
        found[keep] = int(faults), said
    if found[True][1][1] != "freed memory is kept for reuse":
        pytest.skip("another C library")
    assert found[True][0] < 10 < found[False][0]
    assert found[False][1] == [f"compiled programs are kept in {tmp_path}", "freed memory is left to the C library"]


# A program that compiles in a few milliseconds.
ADD = """
from experiments.run.session import prepare
prepare()
import jax
print(jax.jit(lambda x: x + 1)(2))
"""


def test_small_programs_are_kept_too(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_PERSISTENT_CACHE")}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    kept = []
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", ADD], capture_output=True, text=True, env=environment)
        assert (ended.returncode, ended.stdout) == (0, "3\n"), ended.stderr
        kept.append({file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*-cache")})
    assert len(kept[0]) > 0 and kept[1] == kept[0]
