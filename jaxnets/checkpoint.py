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
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxnets import process_arrays
from jaxnets.domains import check_count
from jaxnets.heads import CLASS_WEIGHTS
from jaxnets.naming import quoted

SPARE = 2**20  # bytes that a checkpoint takes beyond its arrays, and more
_ITEM = "default"  # the folder of Orbax's files within a checkpoint
_DIGESTS = "digests.json"
_UNFINISHED = "unfinished"  # the folder of checkpoints that are being written or deleted


class CheckpointError(OSError, ValueError):
    """A checkpoint that cannot be used, in one sentence: it does not fit, or (`DamagedError`) its files are damaged."""


class DamagedError(CheckpointError):
    """A checkpoint whose files are not those that were written."""


def save(directory: Path, number: int, tree: Any, *, keep: int, num_classes: int | None = None) -> None:
    """Saves `tree` as checkpoint `number`, replacing one of that number, and then deletes all but the newest `keep`.

    Over several processes, each of them calls this, with a directory that all of them see.

    Args:
      directory: is created where it does not exist.
      number: of the checkpoint; the highest is the newest.
      tree: of arrays and PRNG keys.
      keep: how many checkpoints remain.
      num_classes: of every array named "class_weights", the optimiser's moments included, only so many rows are saved,
        so that a checkpoint of padded class weights does not depend on the number of devices.

    Raises:
      ValueError: for a negative `number`, or a `keep` below 1.
      OSError: where it could not be written.
    """
    check_count("number", number, least=0)
    check_count("keep", keep)
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    data = {_name(path): _as_data(leaf) for path, leaf in flat}
    rows = {name: num_classes if _is_per_class(name, num_classes) else None for name in data}
    arrays = {name: _cropped(leaf, rows[name]) for name, leaf in data.items()}
    directory.mkdir(parents=True, exist_ok=True)
    # Asked before, since a disk that fills up meanwhile makes Orbax's threads print pages of tracebacks.
    if shutil.disk_usage(directory).free < sum(array.nbytes for array in arrays.values()) + SPARE:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory))
    digests = {
        name: None if process_arrays.is_elsewhere(leaf) else _digest_of_array(leaf, rows[name])
        for name, leaf in data.items()
    }
    unfinished = directory.absolute() / _UNFINISHED
    folder = unfinished / str(number)
    process_arrays.in_one_process(
        lambda: shutil.rmtree(unfinished, ignore_errors=True)
    )  # left by a process that was killed
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            item = ocp.args.StandardSave(jax.tree.unflatten(structure, arrays.values()))
            writer.save(folder, args=ocp.args.Composite(**{_ITEM: item}), custom_metadata={"digests": _DIGESTS})
    except ValueError as error:  # how tensorstore reports what the operating system said
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(directory)) from error
        raise

    def finish() -> None:
        (folder / _DIGESTS).write_text(json.dumps({"arrays": digests, "files": _digests_of_files(folder)}))
        _delete(directory, [number])
        folder.rename(directory / str(number))
        _delete(directory, numbers(directory)[keep:])
        shutil.rmtree(unfinished, ignore_errors=True)

    process_arrays.in_one_process(finish)


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
    wanted = {} if like is None else {name: _as_data(leaf) for name, leaf in _by_name(like).items()}

    def target(path: Any, leaf: Any) -> Any:
        """Of an array that lies with several processes, each one's part; of others, all on the host."""
        data = wanted.get(_name(path))
        if data is not None and process_arrays.is_elsewhere(data):
            return jax.ShapeDtypeStruct(data.shape, leaf.dtype, sharding=data.sharding)
        return np.empty(leaf.shape, leaf.dtype)

    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
            metadata = reader.metadata(folder / _ITEM).tree
            if like is not None:
                _check_fit(_by_name(metadata), _by_name(like), num_classes, what)
            targets = jax.tree_util.tree_map_with_path(target, metadata)
            # Not strict: rows of zeros pad class weights.
            tree = reader.restore(folder / _ITEM, args=ocp.args.StandardRestore(targets, strict=False))
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged file of an earlier version, whose digests are not known, can raise anything
        how = quoted(str(error).partition("\n")[0] or type(error).__name__, longest=150)
        raise DamagedError(f"{what} is damaged: {how}") from error
    arrays = _by_name(tree)
    if digests is not None and not (
        digests.keys() == arrays.keys() and all(_is_of(digests[name], arrays[name]) for name in arrays)
    ):
        raise DamagedError(f"{what} is damaged: its arrays are not those that were saved")
    if like is None:
        return tree
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _placed(arrays[_name(path)], leaf), like)


def _is_of(digest: str | None, array: Any) -> bool:
    """Whether the array has this digest; the files of split arrays are known to be those that were written."""
    return digest is None or process_arrays.is_elsewhere(array) or digest == _digest_of_array(array)


def _checked_digests(folder: Path, what: str) -> Mapping[str, str | None] | None:
    """The digests of the arrays, after those of the files have been checked; None of an earlier version's checkpoint.

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
        data = _as_data(wanted[name])
        rows = data.shape[:1] if not _is_per_class(name, num_classes) else (min(num_classes or 0, data.shape[0]),)
        there, asked = _kind(leaf.shape, leaf.dtype), _kind((*rows, *data.shape[1:]), data.dtype)
        if there != asked:
            raise CheckpointError(f"{what} does not fit: {quoted(name)} is {there} there, and {asked} was asked for")


def _as_data(leaf: Any) -> Any:
    """A leaf as it is saved: of a PRNG key, its numbers."""
    if isinstance(leaf, (int, float)):
        return np.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf) if _is_abstract(leaf) else jax.random.key_data(leaf)
    return leaf


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _cropped(data: Any, rows: int | None) -> Any:
    """The first rows of an array; None takes it as it is."""
    if rows is None or rows >= len(data):
        return data
    # On the host, where that is possible: a device that has a share of the rows would be given all of them.
    return process_arrays.first_rows(data, rows) if process_arrays.is_elsewhere(data) else np.asarray(data)[:rows]


def _is_per_class(name: str, num_classes: int | None) -> bool:
    return num_classes is not None and name.rpartition("/")[2] == CLASS_WEIGHTS


def _placed(array: np.ndarray, like: Any) -> Any:
    """The array with rows of zeros up to the shape of `like`, where `like` lies."""
    if process_arrays.is_elsewhere(array):
        return array
    data = _as_data(like)
    if array.shape != data.shape:
        array = np.pad(array, [(0, data.shape[0] - array.shape[0]), *[(0, 0)] * (array.ndim - 1)])
    if isinstance(like, (np.ndarray, int, float)):
        return array
    if data is not like:  # a key
        return jax.random.wrap_key_data(_placed(array, data), impl=like.dtype)
    if like.sharding is None:
        return jax.device_put(array)
    return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])


def _by_name(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: Any) -> str:
    """The same in a tree of NamedTuples and in the dictionaries that are restored of it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{np.dtype(dtype).name}{list(shape)}"


def _digest_of_array(array: Any, rows: int | None = None) -> str:
    """Of its first rows, or of all."""
    shape = array.shape if rows is None else (min(rows, len(array)), *array.shape[1:])
    digest = hashlib.blake2b(digest_size=16)
    whole = np.asarray(array)
    digest.update(np.ascontiguousarray(whole if rows is None else whole[:rows]).reshape(-1).view(np.uint8).data)
    return f"{_kind(shape, array.dtype)} {digest.hexdigest()}"


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
