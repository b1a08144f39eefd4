"""Saved states: the only import of Orbax.

A directory holds one folder per checkpoint, named by its number. A checkpoint is written in another folder and renamed
when it is complete, so a killed process leaves all of it or nothing. With it are written a digest of every array and of
every file, which `restore` checks. (An array that is split over several processes has none: no process has all of it.)
Checkpoints of earlier versions have no digests and are read unchecked.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxnets.domains import check_count
from jaxnets.naming import quoted
from jaxnets.saved_arrays import (
    as_data,
    by_name,
    cropped,
    digest_of_array,
    is_elsewhere,
    is_per_class,
    kind,
    path_name,
)
from jaxnets.saved_arrays import held as held

SPARE = 2**20  # bytes that a checkpoint takes beyond its arrays, and more
_ITEM = "default"  # the folder of Orbax's files within a checkpoint
_DIGESTS = "digests.json"
_UNFINISHED = "unfinished"  # the folder of checkpoints that are being written or deleted
_WAIT = 600  # seconds that a process waits for the others
_turns = itertools.count()  # of saves: all processes number them alike


class CheckpointError(OSError, ValueError):
    """A checkpoint that cannot be used, in one sentence: it does not fit, or (`DamagedError`) its files are damaged."""


class DamagedError(CheckpointError):
    """A checkpoint whose files differ from the files that were written."""


def save(directory: Path, number: int, tree: Any, *, keep: int, num_classes: int | None = None) -> None:
    """Saves `tree` as checkpoint `number`, replacing one of that number, and then deletes all but the newest `keep`.

    Over several processes, each of them calls this, with a directory that all of them see. They wait for each other by
    JAX's coordination service, and use no device: of a tree from `held` a thread may save while training goes on.

    Args:
      directory: is created where it does not exist.
      number: of the checkpoint; the highest is the newest.
      tree: of arrays and PRNG keys.
      keep: how many checkpoints remain.
      num_classes: of every array named "class_weights", the optimiser's moments included, only so many rows are saved,
        so that a checkpoint of padded class weights does not depend on the number of devices.

    Raises:
      ValueError: for a negative `number`, or a `keep` below 1.
      OSError: where it could not be written, or where after ten minutes not all processes have called this.
    """
    check_count("number", number, least=0)
    check_count("keep", keep)
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    data = {path_name(path): as_data(leaf) for path, leaf in flat}
    rows = {name: num_classes if is_per_class(name, num_classes) else None for name in data}
    arrays = {name: cropped(leaf, rows[name]) for name, leaf in data.items()}
    directory.mkdir(parents=True, exist_ok=True)
    # Asked before, since a disk that fills up meanwhile makes Orbax's threads print pages of tracebacks.
    if shutil.disk_usage(directory).free < sum(array.nbytes for array in arrays.values()) + SPARE:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory))
    digests = {name: None if is_elsewhere(leaf) else digest_of_array(leaf, rows[name]) for name, leaf in data.items()}
    unfinished, turn = directory.absolute() / _UNFINISHED, f"jaxnets.save{next(_turns)}"
    folder = unfinished / str(number)
    # Left by a killed process.
    _in_one_process(f"{turn}.begin", lambda: shutil.rmtree(unfinished, ignore_errors=True))
    among = ocp.options.MultiprocessingOptions(active_processes=_everyone(), barrier_sync_key_prefix=turn)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=among),
        **{_ITEM: ocp.StandardCheckpointHandler(multiprocessing_options=among)},
    )
    try:
        with ocp.Checkpointer(handler, multiprocessing_options=among) as writer:
            item = ocp.args.StandardSave(jax.tree.unflatten(structure, arrays.values()))
            writer.save(folder, args=ocp.args.Composite(**{_ITEM: item}), custom_metadata={"digests": _DIGESTS})
    except ValueError as error:  # tensorstore reports errors of the operating system so
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(directory)) from error
        raise

    def finish() -> None:
        (folder / _DIGESTS).write_text(json.dumps({"arrays": digests, "files": _digests_of_files(folder)}))
        _delete(directory, [number])
        folder.rename(directory / str(number))
        _delete(directory, numbers(directory)[keep:])
        shutil.rmtree(unfinished, ignore_errors=True)

    _in_one_process(f"{turn}.end", finish)


def numbers(directory: Path) -> list[int]:
    """The numbers of the checkpoints that were written completely, newest first."""
    if not directory.is_dir():
        return []
    names = (entry.name for entry in directory.iterdir() if entry.is_dir())
    return sorted((int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True)


def restore(
    directory: Path,
    like: Any = None,
    *,
    on_damage: Callable[[str], None] | None = None,
    num_classes: int | None = None,
) -> tuple[int, Any] | None:
    """The newest checkpoint, as (number, tree shaped and placed as `like`); None where there is none at all.

    Args:
      directory: as given to `save`.
      like: a tree of arrays, or of `jax.ShapeDtypeStruct` as `jax.eval_shape` gives them. Without it, the tree is of
        dictionaries, lists and NumPy arrays, whatever devices it was saved from.
      on_damage: is given a sentence for each damaged checkpoint, and the one before it is taken. Without it, a damaged
        newest checkpoint is refused.
      num_classes: as given to `save`; class weights are padded with rows of zeros to the shape in `like`.

    Raises:
      DamagedError: where the newest checkpoint, or with `on_damage` every checkpoint, is damaged.
      CheckpointError: where a checkpoint has other arrays than `like`, or of other shapes or dtypes.
    """
    found = numbers(directory)
    for number, older in itertools.zip_longest(found, found[1:]):
        try:
            return number, _restore_one(directory, number, like, num_classes)
        except DamagedError as damage:
            if older is None:
                raise
            if on_damage is None:
                remedy = f"delete {quoted(directory / str(number))} to use checkpoint {older}"
                raise DamagedError(f"{damage}; {remedy}") from damage
            on_damage(f"{damage}; checkpoint {older} is used instead")
    return None


def _restore_one(directory: Path, number: int, like: Any, num_classes: int | None) -> Any:
    folder, what = directory.absolute() / str(number), f"checkpoint {number} in {quoted(directory)}"
    digests = _checked_digests(folder, what)
    wanted = {} if like is None else {name: as_data(leaf) for name, leaf in by_name(like).items()}

    def target(path: Any, leaf: Any) -> Any:
        """Of an array that lies with several processes, each one's part; of others, all on the host."""
        data = wanted.get(path_name(path))
        if data is not None and is_elsewhere(data):
            return jax.ShapeDtypeStruct(data.shape, leaf.dtype, sharding=data.sharding)
        return np.empty(leaf.shape, leaf.dtype)

    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            metadata = reader.metadata(folder / _ITEM).tree
            if like is not None:
                _check_fit(by_name(metadata), by_name(like), num_classes, what)
            targets = jax.tree_util.tree_map_with_path(target, metadata)
            # Not strict: rows of zeros pad class weights.
            tree = reader.restore(folder / _ITEM, args=ocp.args.StandardRestore(targets, strict=False))
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged file of an earlier version, whose digests are not known, can raise anything
        how = quoted(str(error).partition("\n")[0] or type(error).__name__, longest=150)
        raise DamagedError(f"{what} is damaged: {how}") from error
    arrays = by_name(tree)
    if digests is not None and not (
        digests.keys() == arrays.keys() and all(_is_of(digests[name], arrays[name]) for name in arrays)
    ):
        raise DamagedError(f"{what} is damaged: its arrays are not those that were saved")
    if like is None:
        return tree
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _placed(arrays[path_name(path)], leaf), like)


def _is_of(digest: str | None, array: Any) -> bool:
    """Whether the array has this digest; the files of split arrays have been checked before."""
    return digest is None or is_elsewhere(array) or digest == digest_of_array(array)


def _checked_digests(folder: Path, what: str) -> Mapping[str, str | None] | None:
    """The digests of the arrays, once the files' digests have been checked; None for an earlier version's checkpoint.

    The files come first, since their readers act on damaged sizes, and print tracebacks of their own.
    """

    def damaged(name: str) -> DamagedError:
        return DamagedError(f"{what} is damaged: its file {quoted(name)} is missing or not what was written")

    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        files, arrays = dict(digests["files"]), dict(digests["arrays"])
    except FileNotFoundError:
        metadata = folder / "_CHECKPOINT_METADATA"
        if metadata.is_file() and b'"digests"' not in metadata.read_bytes():
            return None
        raise damaged(_DIGESTS) from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise damaged(_DIGESTS) from None
    found = _digests_of_files(folder)
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            raise damaged(name)
    return arrays


def _check_fit(saved: Mapping[str, Any], wanted: Mapping[str, Any], num_classes: int | None, what: str) -> None:
    for name in wanted:
        if name not in saved:
            raise CheckpointError(f"{what} does not fit: it has no {quoted(name)}")
    for name, leaf in saved.items():
        if name not in wanted:
            raise CheckpointError(f"{what} does not fit: its {quoted(name)} has no place")
        data = as_data(wanted[name])
        rows = data.shape[:1] if not is_per_class(name, num_classes) else (min(num_classes or 0, data.shape[0]),)
        there, asked = kind(leaf.shape, leaf.dtype), kind((*rows, *data.shape[1:]), data.dtype)
        if there != asked:
            raise CheckpointError(f"{what} does not fit: {quoted(name)} is {there} there, and {asked} was asked for")


def _placed(array: np.ndarray, like: Any) -> Any:
    """The array with rows of zeros up to the shape of `like`, where `like` lies."""
    if is_elsewhere(array):
        return array
    data = as_data(like)
    if array.shape != data.shape:
        array = np.pad(array, [(0, data.shape[0] - array.shape[0]), *[(0, 0)] * (array.ndim - 1)])
    if isinstance(like, (np.ndarray, int, float)):
        return array
    if data is not like:  # a key
        return jax.random.wrap_key_data(_placed(array, data), impl=like.dtype)
    if like.sharding is None:
        return jax.device_put(array)
    return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])


def _everyone() -> set[int] | None:
    """The processes, if there are several: named, they wait for each other without their devices."""
    return set(range(jax.process_count())) if jax.process_count() > 1 else None


def _in_one_process(name: str, act: Callable[[], None]) -> None:
    """`act()` in the first process, while the others wait."""
    if jax.process_index() == 0:
        act()
    if jax.process_count() > 1:
        try:
            ocp.multihost.sync_global_processes(name, processes=_everyone(), timeout=_WAIT)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            asked = f"checkpoint.save is for all {jax.process_count()} processes to call, with the same arguments"
            raise OSError(errno.ETIMEDOUT, f"{asked}: after {_WAIT} s one was still missing") from error


def _digests_of_files(folder: Path) -> dict[str, str]:
    digests = {}
    for file in folder.rglob("*"):
        if file.is_file() and file != folder / _DIGESTS:
            with file.open("rb") as contents:
                digest = hashlib.file_digest(contents, lambda: hashlib.blake2b(digest_size=16))
            digests[file.relative_to(folder).as_posix()] = digest.hexdigest()
    return digests


def _delete(directory: Path, doomed: list[int]) -> None:
    """Renames first, so that a killed process leaves no half of a checkpoint under its number."""
    for number in doomed:
        if (directory / str(number)).is_dir():
            (directory / str(number)).rename(directory / _UNFINISHED / f"{number}.deleted")
