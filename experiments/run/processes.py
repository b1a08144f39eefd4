"""Several processes that train one run: how they begin, agree and end.

`--processes N` starts N on this machine. SLURM, Open MPI and Kubernetes start them over several, and JAX finds out from
the environment which one it is in; so do the variables `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
`JAX_PROCESS_ID`, which any other launcher can set.

The first process alone speaks and writes files, except for checkpoints, of which each writes its part. Clocks and
signals are each process's own: the processes agree before they act on them.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SUPERVISED = "JAXNETS_SUPERVISED"  # set for a process whose standard input ends with the process that started it
GRACE = 15.0  # seconds in which the others may end by themselves after one has
LOST = 75  # the exit code of a process whose others have ended; EX_TEMPFAIL: the same command goes on
_POLL = 0.05  # seconds
_DRAWING = 3600  # seconds in which the first process may draw while the others wait for it to end
_DETECTED = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # how many processes a launcher started

T = TypeVar("T")


class Elsewhere(Exception):
    """The first process refuses to go on, and says why."""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether something has started this process as one of several, or says that it will be one of them."""
    if ADDRESS in environment:
        return True
    indexed_job = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return indexed_job or any(environment.get(name, "1") not in ("", "1") for name in _DETECTED)


def is_supervised() -> bool:
    """Whether the process that `start`ed this one watches it, and says how it ended."""
    return SUPERVISED in os.environ


def start(count: int) -> None:
    """Runs this process's own command in `count` processes, and exits as they do.

    Whichever of them ends in an error ends all.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {**os.environ, ADDRESS: address, COUNT: str(count), SUPERVISED: "1"}
    with contextlib.ExitStack() as stack:
        complaints = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(1, count)]
        running = [
            subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=shared | {INDEX: str(index)},
                stdin=subprocess.PIPE,
                stderr=complaints[index - 1] if index else None,
                start_new_session=True,  # Ctrl-C comes here alone, and is passed on once
            )
            for index in range(count)
        ]
        stack.callback(_kill, running)
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda got, frame: _tell(running, got))
            stack.callback(signal.signal, number, before)
        failed = _wait(running)
        code = 0 if failed is None else running[failed].returncode
        if failed is None or (failed == 0 and code > 0 and code != LOST):  # which has said why itself
            sys.exit(code)
        said = ""
        if failed > 0:
            complaints[failed - 1].seek(0)
            said = complaints[failed - 1].read().decode(errors="replace").strip().rpartition("\n")[2]
    if code < 0:
        how, code = f"was killed by signal {-code}", 128 - code
    elif code == LOST:
        how = "lost the others"
    else:
        how = f"ended with exit code {code} ({said})"
    print(
        f"error: process {failed + 1} of {count} {how}, and the others were stopped; the same command goes on from the "
        "last checkpoint",
        file=sys.stderr,
    )
    sys.exit(code)


def _tell(running: list["subprocess.Popen[bytes]"], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


def _wait(running: list["subprocess.Popen[bytes]"]) -> int | None:
    """Which of the processes failed, after all have ended; of several, the first one if it has said why itself."""
    failed: int | None = None
    deadline = 0.0
    while None in (codes := [process.poll() for process in running]):
        if failed is None and any(codes):
            failed = _culprit(codes)
            # One that was killed leaves the others waiting for it for ever.
            deadline = time.monotonic() + (GRACE if (codes[failed] or 0) > 0 else 0.0)
        if failed is not None and time.monotonic() > deadline:
            _kill(running)
        time.sleep(_POLL)
    if failed is None or codes[failed] == LOST:
        return _culprit(codes) if any(codes) else None
    both_told = (codes[0] or 0) > 0 and (codes[failed] or 0) > 0
    return 0 if both_told and codes[0] != LOST else failed


def _culprit(codes: list[int | None]) -> int:
    """The first process that failed, rather than one that only lost the others."""
    failed = [index for index, code in enumerate(codes) if code]
    return next((index for index in failed if codes[index] != LOST), failed[0])


def _kill(running: list["subprocess.Popen[bytes]"]) -> None:
    for process in running:
        if process.poll() is None:
            process.kill()
    for process in running:
        process.wait()
        if process.stdin:
            process.stdin.close()


def join() -> None:
    """Connects this process with the others; of all but the first, the standard output is dropped.

    Raises:
      ValueError: where the environment does not say which one it is, or the others cannot be reached.
    """
    import jax

    if is_supervised():
        threading.Thread(target=_end_with_parent, daemon=True).start()
    named = {name: os.environ[name] for name in (COUNT, INDEX) if name in os.environ}
    if not all(number.isdecimal() for number in named.values()) or len(named) == 1:
        raise ValueError(f"{COUNT} and {INDEX} must be numbers, not {' and '.join(named.values())}")
    count, index = (int(named[name]) if named else None for name in (COUNT, INDEX))
    try:
        jax.distributed.initialize(num_processes=count, process_id=index, shutdown_timeout_seconds=_DRAWING)
        speaks = is_first()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"this process cannot join the others: {str(error).splitlines()[0].rstrip('.')}; {ADDRESS}, {COUNT} and "
            f"{INDEX} say how, or a launcher"
        ) from error
    sys.stdout.flush()
    spoken = os.dup(1) if speaks else os.open(os.devnull, os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Gloo tells there of its connections
    sys.stdout = open(spoken, "w", buffering=1, encoding=sys.stdout.encoding)  # noqa: SIM115  # until the end


def _end_with_parent() -> None:
    while os.read(0, 1):  # of the standard input, to which nobody writes
        pass
    os._exit(1)


def number_of() -> int:
    """How many processes train together."""
    if not is_launched():
        return 1
    import jax

    return jax.process_count()


def is_first() -> bool:
    """Whether this is the process that writes and speaks, also where it is the only one."""
    if not is_launched():
        return True
    import jax

    return jax.process_index() == 0


def agreed(told: int | None, due: bool) -> tuple[int | None, bool]:
    """Keeps processes together: all stop for a signal that any of them got, and save by the first one's clock.

    Each of them calls this after the same step.
    """
    if number_of() == 1:
        return told, due
    import numpy as np
    from jax.experimental import multihost_utils

    signals, dues = np.asarray(multihost_utils.process_allgather(np.array([told or 0, due], np.int32))).T
    return (int(signals.max()) or None), bool(dues[0])


def first_says(value: bool) -> bool:
    """The first process's value, in each of them."""
    if number_of() == 1:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def by_first(act: Callable[[], T]) -> T | None:
    """`act()` in the first process, while the others wait; None in these.

    Raises:
      Elsewhere: in the others, if the first one's `act` raises anything.
    """
    result: T | None = None
    failure: Exception | None = None
    if is_first():
        try:
            result = act()
        except Exception as error:
            failure = error
    if first_says(failure is not None):
        raise failure or Elsewhere
    return result


def are_lost(error: Exception) -> bool:
    """Whether this is the error of an operation that needs another process, which has ended."""
    return is_launched() and any(word in str(error) for word in ("Gloo", "NCCL", "oordination service", "heartbeat"))


def leave(code: int) -> NoReturn:
    """Ends this process with an error, without waiting for the others, which may wait for it."""
    if not is_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
