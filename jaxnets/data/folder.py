"""Folders of picture files, one folder a class: PATH/train/CLASS/* with PATH/test/CLASS/*, or PATH/CLASS/* alone."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from jaxnets.data.cache import Progress
from jaxnets.data.dataset import DataError, Dataset
from jaxnets.data.decoded import load_pictures
from jaxnets.data.pictures import PictureFiles

_TEST_FOLDERS = ("test", "val")
_TEST_SHARE = 10  # one in so many, where the folder has no split of its own


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """A train and a test split of picture files, whose labels are indices into `classes`."""

    train: PictureFiles
    test: PictureFiles
    classes: tuple[str, ...]


def load_class_folders(
    directory: str, *, size: int, skip_unreadable: bool = False, on_progress: Progress | None = None
) -> Dataset:
    """The pictures of such a folder (see `find_class_folders`) as RGB of size×size (see `jaxnets.data.pictures`).

    They are decoded once (see `jaxnets.data.decoded.load_pictures`) and then kept, in N·3·size² bytes, which later
    calls map into memory. A change of any file's name, size or time of modification decodes anew.

    Args:
      directory: the folder.
      size: height and width in pixels.
      skip_unreadable: leave out the files that cannot be read, rather than refuse the set; `notes` names them.
      on_progress: called with (done, total) while pictures are decoded, and not at all where they are kept already.

    Raises:
      DataError: as `find_class_folders` and `load_pictures`.
    """
    if size < 1:
        raise DataError(f"folder:{directory}: size is {size}; give a height and width of at least 1 pixel.")
    folders = find_class_folders(directory)
    return load_pictures(
        folders.train,
        folders.test,
        size=(size, size),
        classes=folders.classes,
        name=f"folder:{directory}",
        skip_unreadable=skip_unreadable,
        on_progress=on_progress,
    )


def find_class_folders(directory: str) -> ClassFolders:
    """The files of a folder of class folders, without opening one.

    Either PATH/train/CLASS/* and PATH/test/CLASS/* (PATH/val/CLASS/* where there is no PATH/test), or PATH/CLASS/*, of
    which a tenth of each class, drawn by a hash of the names, is the test split, the same on every machine. The classes
    are named by their folders, in alphabetical order. Hidden files and folders are passed over, and so are files beside
    the class folders.

    Raises:
      DataError: if there is no such folder, no second class, a class folder that is empty or holds a folder, or if the
        classes of the two splits differ.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; give one that holds class folders, as in 'folder:PATH'.")
    if not (root / "train").is_dir():
        classes = _by_class(root, root)
        drawn = {name: _draw(name, files, root) for name, files in classes.items()}
        rest = {name: [file for file in files if file not in drawn[name]] for name, files in classes.items()}
        splits = [rest, {name: sorted(files) for name, files in drawn.items()}]
    else:
        test = next((name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
        if test is None:
            raise DataError(
                f"{root}: has train but neither {' nor '.join(_TEST_FOLDERS)}; add one, or give {root / 'train'} to "
                "have a tenth of it taken for testing."
            )
        splits = [_by_class(root / split, root) for split in ("train", test)]
        if list(splits[0]) != list(splits[1]):
            only = sorted(set(splits[0]) ^ set(splits[1]))
            raise DataError(
                f"{root}: the class folders of train and {test} differ in {', '.join(only[:5])}; give both the same."
            )
    train_files, test_files = (_files(root, split) for split in splits)
    return ClassFolders(train_files, test_files, tuple(splits[0]))


_Listed = tuple[str, int, int]  # name relative to the root, bytes, time of modification in ns


def _by_class(folder: Path, root: Path) -> dict[str, list[_Listed]]:
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    if len(classes) < 2:
        raise DataError(
            f"{folder}: has {'one folder' if classes else 'no folders'} in it but needs at least two, one for each "
            "class, with pictures in them."
        )
    return {name: _listed(folder / name, root) for name in classes}


def _listed(folder: Path, root: Path) -> list[_Listed]:
    prefix, files = folder.relative_to(root).as_posix(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                raise DataError(f"{folder}: holds the folder {entry.name}, where only pictures belong; move it away.")
            facts = entry.stat(follow_symlinks=entry.is_file())  # of a broken link, its own: read, it is refused
            files.append((f"{prefix}/{entry.name}", facts.st_size, facts.st_mtime_ns))
    if not files:
        raise DataError(f"{folder}: this class folder is empty; put pictures in it or remove it.")
    return sorted(files)


def _draw(name: str, files: list[_Listed], root: Path) -> set[_Listed]:
    if len(files) < 2:
        raise DataError(f"{root / name}: one picture cannot serve both training and testing; add more.")
    by_hash = sorted(files, key=lambda file: hashlib.sha256(file[0].encode(errors="surrogateescape")).digest())
    return set(by_hash[: max(1, len(files) // _TEST_SHARE)])


def _files(root: Path, by_class: dict[str, list[_Listed]]) -> PictureFiles:
    digest, names, labels = hashlib.sha256(), [], []
    for label, files in enumerate(by_class.values()):
        for file in files:
            digest.update(repr((label, *file)).encode(errors="surrogateescape"))
            names.append(file[0])
            labels.append(label)
    return PictureFiles(root, tuple(names), np.array(labels, np.int32), digest.hexdigest()[:16])
