"""Folders of picture files, one folder a class: PATH/train/CLASS/* with PATH/test/CLASS/*, or PATH/CLASS/* alone."""

import hashlib
import os
from collections import Counter
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Int32

from jaxnets.data.classes import count_classes, hold_out
from jaxnets.data.dataset import DataError
from jaxnets.data.decoding import endings
from jaxnets.data.pictures import PictureFiles, Splits
from jaxnets.data.place import existing_folder
from jaxnets.naming import quoted

_TEST_FOLDERS = ("test", "val")


def find_class_folders(directory: str) -> Splits:
    """The files of a folder of class folders, without opening one.

    Either PATH/train/CLASS/* and PATH/test/CLASS/* (PATH/val/CLASS/* where there is no PATH/test), or PATH/CLASS/*, of
    which a tenth of each class, drawn by a hash of the names, is the test split, the same on every machine. A folder
    named train that holds pictures is a class like those beside it. The classes are named by their folders, in
    alphabetical order; `notes` names classes that only the test split has; they are left out.

    Pictures are told by the endings of their names; `notes` counts the files of other endings, which are left out.
    Hidden files and folders and files beside the class folders are passed over.

    Raises:
      DataError: if there is no such folder, no second class, a class folder without pictures or with a folder in it,
        or no test picture of a class that training has.
    """
    root = existing_folder(directory, "give one that holds class folders, as in 'folder:PATH'")
    try:
        return _find(root, f"folder:{quoted(directory)}")
    except OSError as error:
        raise DataError(f"{quoted(error.filename or root)}: cannot be read ({error.strerror or error}).") from error


Listed = tuple[str, int, int]  # name relative to the root, bytes, time of modification in ns
ByClass = dict[str, list[Listed]]


def _find(root: Path, name: str) -> Splits:
    others: Counter[str] = Counter()  # files that are no pictures, by their endings
    if is_split(root):
        train, tests = (by_class(folder, root, others) for folder in split_folders(root, "a tenth of it"))
    else:
        classes = by_class(root, root, others)
        drawn = {name: _draw(name, files, root) for name, files in classes.items()}
        tests = {name: sorted(files) for name, files in drawn.items()}
        train = {name: [file for file in files if file not in drawn[name]] for name, files in classes.items()}
    names = sorted(train.keys() | tests.keys())
    train_files, train_labels = in_order(train, names)
    test_files, test_labels = in_order(tests, names)
    counted = count_classes(train_labels, test_labels, tuple(names), name=name)
    kept = [test_files[index] for index in counted.kept.tolist()]
    return Splits(
        files_of(root, train_files, counted.train_labels),
        files_of(root, kept, counted.test_labels),
        counted.classes,
        (*counted.notes, *about_others(others)),
    )


def about_others(others: Counter[str]) -> tuple[str, ...]:
    """A sentence about the files that are no pictures by their endings, if there are any."""
    if not others:
        return ()
    what = ", ".join(f"{count} {quoted(ending, 20) or 'without one'}" for ending, count in others.most_common(5))
    what += f" and {len(others) - 5} other endings" if len(others) > 5 else ""
    return (f"Left out, as the endings of their names are of no known picture format: {what}.",)


def is_split(root: Path) -> bool:
    """Whether PATH/train is a split, and not a class of trains beside others."""
    train = root / "train"
    if not train.is_dir():
        return False
    has_other_classes = any(_is_class(each) and each.name not in ("train", *_TEST_FOLDERS) for each in root.iterdir())
    return not has_other_classes or any(_is_class(each) for each in train.iterdir())


def split_folders(root: Path, taken: str) -> tuple[Path, Path]:
    """PATH/train, and PATH/test or else PATH/val; `taken` names the test if PATH/train were the whole set."""
    test = next((name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if test is None:
        raise DataError(
            f"{quoted(root)}: has train but neither {' nor '.join(_TEST_FOLDERS)}; add one, or give "
            f"{quoted(root / 'train')} to have {taken} taken for testing."
        )
    return root / "train", root / test


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def by_class(folder: Path, root: Path, others: Counter[str]) -> ByClass:
    """The pictures of each class folder in `folder`, two or more; files that are none are counted in `others`."""
    classes = sorted(each.name for each in folder.iterdir() if _is_class(each))
    if len(classes) < 2:
        raise DataError(
            f"{quoted(folder)}: has {'one folder' if classes else 'no folders'} in it but needs at least two, one for "
            "each class, with pictures in them."
        )
    return {name: _listed(folder / name, root, others) for name in classes}


def _listed(folder: Path, root: Path, others: Counter[str]) -> list[Listed]:
    prefix, files, passed_over = folder.relative_to(root).as_posix(), [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                raise DataError(
                    f"{quoted(folder)}: holds the folder {quoted(entry.name)}, where only pictures belong; move it "
                    "away."
                )
            ending = PurePath(entry.name).suffix.lower()
            if ending not in endings():
                others[ending] += 1
                passed_over += 1
                continue
            facts = _facts(entry)
            files.append((f"{prefix}/{entry.name}", facts.st_size, facts.st_mtime_ns))
    if not files:
        what = f"none of its {passed_over} files is a picture by its ending" if passed_over else "it is empty"
        raise DataError(f"{quoted(folder)}: this class folder has no pictures, as {what}; add some or remove it.")
    return sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _facts(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link that leads nowhere or to itself, which is refused when it is read
        return entry.stat(follow_symlinks=False)


def _draw(name: str, files: list[Listed], root: Path) -> set[Listed]:
    if len(files) < 2:
        raise DataError(f"{quoted(root / name)}: one picture cannot serve both training and testing; add more.")
    drawn = hold_out([file[0] for file in files], np.zeros(len(files), np.int32))
    return {files[index] for index in drawn.tolist()}


def in_order(by_class: ByClass, names: list[str]) -> tuple[list[Listed], Int32[np.ndarray, " N"]]:
    """The files of all classes, and the place of each one's class in `names`."""
    files = [file for name in names for file in by_class.get(name, [])]
    labels = [label for label, name in enumerate(names) for _ in by_class.get(name, [])]
    return files, np.array(labels, np.int32)


def files_of(root: Path, files: list[Listed], labels: Int32[np.ndarray, " N"]) -> PictureFiles:
    """The pictures as a set reads them."""
    digest = hashlib.sha256()
    for label, file in zip(labels.tolist(), files, strict=True):
        digest.update(repr((label, *file)).encode(errors="surrogateescape"))
    return PictureFiles(root, tuple(file[0] for file in files), labels, digest.hexdigest()[:16])
