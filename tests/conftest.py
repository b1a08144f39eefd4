import ctypes
import gc
import hashlib
import os
import re
import shutil
import sys
import zlib
from pathlib import Path

# Eight virtual devices let every test of data parallelism run on any CPU; read once, when the backend starts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

# Compilation takes most of the tests' time. Workers, the commands that tests start, and the next run share compiled
# programs, on processors alike.
CPUINFO = Path("/proc/cpuinfo")
LINES = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
FLAGS = next((line for line in LINES if line.startswith("flags")), "")
PROCESSOR = hashlib.sha256(f"{FLAGS}\n".encode()).hexdigest()[:12]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnets" / "tests" / PROCESSOR
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
CACHE_BYTES = 4 * 2**30  # JAX's own limit would look through all files at each compilation
# The small ones too: there are so many that they would take a third of the time.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook(["jaxnets", "kernels", "experiments"], "beartype.beartype")  # annotations of shapes hold

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from experiments.run.session import M_MMAP_MAX, M_TRIM_THRESHOLD  # behind the hook

C_LIBRARY = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

collect_ignore = ["fixtures"]  # scripts, of which some need PyTorch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too, and compile as users do")
    parser.addoption("--interpreted", action="store_true", help="the margin softmax's contract for the Hopper kernel")
    parser.addoption("--skips", metavar="REGEX", help="fail if a test is skipped for a reason that does not match")
    parser.addoption(
        "--one-of-each",
        metavar="NUMBER",
        type=int,
        help="of each test's parameters take those that this number draws; all of them in files that ask for a peer",
    )
    parser.addoption("--quick", action="store_true", help="the default: without --all")


def pytest_configure(config: pytest.Config) -> None:
    # LLVM's passes take a good part of compilation. With --all the tests compile programs as users have them.
    if not config.getoption("--all"):
        os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    if hasattr(config, "workerinput"):
        return
    if CACHE.exists() and sum(file.stat().st_size for file in CACHE.iterdir()) > CACHE_BYTES:
        shutil.rmtree(CACHE)
    if config.getoption("--skips") is not None:
        config.pluginmanager.register(_Skips(config.getoption("--skips")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number = config.getoption("--one-of-each")
    if number is not None:
        chosen = _one_of_each(items, number)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]
    if not config.getoption("--all"):
        skip = pytest.mark.skip(reason="slow: --all runs it")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Tracing makes so many objects that searching all of them for cycles would take a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _one_of_each(items: list[pytest.Item], number: int) -> set[pytest.Item]:
    """A quick case of each test; every case in files that compare with another library, which only some legs have."""
    cases: dict[str, list[pytest.Item]] = {}
    chosen = set()
    asking = {path for path in {item.path for item in items} if "importorskip(" in path.read_text()}
    for item in sorted(items, key=lambda item: item.nodeid):
        if item.path in asking:
            chosen.add(item)
        elif "slow" not in item.keywords:
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    for test, alike in cases.items():
        chosen.add(alike[zlib.crc32(f"{number} {test}".encode()) % len(alike)])
    return chosen


class _Skips:
    """Fails a session in which tests were skipped for other reasons than those expected of it."""

    def __init__(self, expected: str) -> None:
        self._expected = re.compile(expected)
        self.unexpected: list[str] = []

    def _see(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if not self._expected.search(reason):
                self.unexpected.append(f"{report.nodeid}: {reason}")

    pytest_runtest_logreport = pytest_collectreport = lambda self, report: self._see(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.unexpected:
            terminalreporter.write_line(f"skipped unexpectedly: {line}", red=True)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs of one file, and the garbage, are of no use to the next, and would fill a worker's memory."""
    yield
    jax.clear_caches()
    gc.collect()
    if hasattr(C_LIBRARY, "malloc_trim"):  # glibc, which commands of the tests told to keep what is freed
        for parameter, value in ((M_MMAP_MAX, 65_536), (M_TRIM_THRESHOLD, 128 * 2**10)):  # its defaults
            C_LIBRARY.mallopt(parameter, value)
        C_LIBRARY.malloc_trim(0)


@pytest.fixture
def unenforced():
    """Without enforced annotations, so that a function's own checks of its arguments are what refuses them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
