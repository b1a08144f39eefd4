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
