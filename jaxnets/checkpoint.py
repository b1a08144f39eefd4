"""Saved states: the only import of Orbax.

A directory holds one folder a checkpoint, named by its number. A checkpoint is written under another name and renamed
when it is whole, so that a killed process leaves either all of it or nothing; one damaged later is skipped for the one
before it.
"""

import errno
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

SPARE = 2**20  # bytes that a checkpoint takes beyond its arrays, and more


def save(directory: Path, number: int, tree: Any, *, keep: int) -> None:
    """Saves `tree` as checkpoint `number`, replacing one of that number, and then drops all but the newest `keep`.

    Raises:
      OSError: where it could not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if isinstance(leaf, (jax.Array, np.ndarray)))
    # Asked before, since a disk that fills up meanwhile makes Orbax's threads print pages of tracebacks.
    if shutil.disk_usage(directory).free < size + SPARE:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory))
    try:
        with _manager(directory, keep) as manager:
            if number in manager.all_steps():
                manager.delete(number)
            manager.save(number, args=ocp.args.StandardSave(tree), force=True)
            manager.wait_until_finished()
    except ValueError as error:  # how tensorstore reports what the operating system said
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(directory)) from error
        raise


def numbers(directory: Path) -> list[int]:
    """The numbers of the checkpoints that were wholly written, newest first."""
    if not directory.is_dir():
        return []
    with _manager(directory, keep=None) as manager:
        return sorted(manager.all_steps(), reverse=True)


def restore(directory: Path, like: Any = None) -> tuple[int, Any] | None:
    """The newest readable checkpoint, as (number, tree shaped and placed as `like`); None where there is none at all.

    Without `like`, the tree is of dictionaries, lists and NumPy arrays, whatever devices it was saved from.

    Raises:
      OSError: where there are checkpoints and none can be read.
    """
    found = numbers(directory)
    for number in found:
        with _manager(directory, keep=None) as manager:
            try:
                if like is None:
                    saved = manager.item_metadata(number).tree
                    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
                else:
                    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
                return number, manager.restore(number, args=ocp.args.StandardRestore(target))
            except Exception as error:  # whatever a damaged file makes of itself: the one before it is whole
                damage = error
    if found:
        raise OSError(errno.EIO, "none of its checkpoints can be read", str(directory)) from damage
    return None


def _manager(directory: Path, keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    handler = ocp.StandardCheckpointHandler()  # without it there are no metadata of a tree
    return ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handler)
