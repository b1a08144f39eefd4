"""Checkpoints written while training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxnets import checkpoint


class Saver:
    """Writes in a thread of its own, from a copy of the arrays; one copy at a time.

    Over several processes all take part, at the same step. An error of a write is raised by the next `save` or `wait`;
    at the latest when the block ends.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saver")
        self._pending: Future[None] | None = None

    def save(self, write: Callable[[Any], None], tree: Any, num_classes: int | None = None) -> None:
        """`write(tree)`, after the write before it has ended; `num_classes` is as in `checkpoint.save`."""
        self.wait()
        self._pending = self._thread.submit(write, checkpoint.held(tree, num_classes))

    def wait(self) -> None:
        """Until all is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:  # or it would hide why the block has ended
                raise
        finally:
            self._thread.shutdown()
