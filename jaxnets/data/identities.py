"""Class folders split by class: identities to train on, and others, which training never sees, to judge on."""

from collections import Counter
from pathlib import Path, PurePath

import numpy as np

from jaxnets.data.dataset import DataError, GivenPairs
from jaxnets.data.folder import about_others, by_class, files_of, in_order, is_split, split_folders
from jaxnets.data.lfw_pairs import Pair, read_pairs
from jaxnets.data.pictures import Splits
from jaxnets.data.place import existing_folder
from jaxnets.data.records import UNSEEN, find_record_identities
from jaxnets.naming import quoted

PAIRS = "pairs.txt"


def find_identities(directory: str, *, seed: int = 0) -> Splits:
    """The files of a folder of class folders, without opening a picture; an identity is in one split alone.

    Either PATH/train/CLASS/* and PATH/test/CLASS/* (PATH/val/CLASS/* where there is no PATH/test), which must have no
    class in common; or PATH/CLASS/*. Of these the test has the classes that PATH/pairs.txt names, or, without such a
    file, a quarter, drawn by the seed among classes of two pictures or more. Classes and pictures are found, and files
    passed over, as in `jaxnets.data.folder.find_class_folders`.

    Where PATH has records, PATH/train.rec, these are split (`jaxnets.data.records.find_record_identities`).

    PATH/pairs.txt has pairs of the test's pictures in LFW's format (`jaxnets.data.lfw_pairs`): number n of a class is
    its picture CLASS_n, with n of four digits or as it is, of any format.

    Raises:
      DataError: if there is no such folder; as `find_class_folders` for its content; if a class is in both splits, or
        either has fewer than two; if the pairs cannot be read, or name a picture that the test does not have.
    """
    root = existing_folder(directory, "give one that holds class folders, as in 'identities:PATH'")
    if next(root.glob("*.rec"), None):
        return find_record_identities(directory, seed=seed)
    try:
        return _find(root, f"identities:{quoted(directory)}", seed)
    except OSError as error:
        raise DataError(f"{quoted(error.filename or root)}: cannot be read ({error.strerror or error}).") from error


def _find(root: Path, name: str, seed: int) -> Splits:
    others: Counter[str] = Counter()  # files that are no pictures, by their endings
    pairs = read_pairs(root / PAIRS) if (root / PAIRS).exists() else []
    if is_split(root):
        folders = split_folders(root, "a quarter of its classes")
        train, test = (by_class(folder, root, others) for folder in folders)
        shared = sorted(train.keys() & test.keys())
        if shared:
            more = f", as are {len(shared) - 1} more" if len(shared) > 1 else ""
            raise DataError(
                f"{name}: the class {quoted(shared[0], 40)} is in {folders[0].name} and in {folders[1].name}{more}; "
                "an identity of the test must be unseen in training."
            )
        how = f"those of {quoted(folders[1].name)}"
    else:
        classes = by_class(root, root, others)
        unseen = {each for pair in pairs for each in (pair.name, pair.other)} if pairs else set(_draw(classes, seed))
        train = {each: files for each, files in classes.items() if each not in unseen}
        test = {each: files for each, files in classes.items() if each in unseen}
        how = f"those that {PAIRS} names" if pairs else f"a quarter, seed {seed}"
    for split, count in (("training", len(train)), ("the test", len(test))):
        if count < 2:
            raise DataError(
                f"{name}: {split} has {count or 'none'} of its {len(train) + len(test)} classes (the test: {how}); "
                "both sides need two or more, and those that are drawn for the test two pictures each."
            )
    names = [*sorted(train), *sorted(test)]
    train_files, train_labels = in_order(train, names)
    test_files, test_labels = in_order(test, names)
    given = _placed(pairs, [file[0] for file in test_files], root / PAIRS) if pairs else None
    notes = [*about_others(others), f"The test has {len(test):,} of {len(names):,} classes ({how}), and no other has."]
    if given is not None:
        folds = len(np.unique(given.folds))
        notes.append(f"Verification is also of the {len(pairs):,} pairs of {PAIRS}, in {folds} folds.")
    return Splits(
        files_of(root, train_files, train_labels),
        files_of(root, test_files, test_labels),
        tuple(names),
        tuple(notes),
        open_set=True,
        pairs=given,
    )


def _draw(classes: dict[str, list[tuple[str, int, int]]], seed: int) -> list[str]:
    repeated = sorted(name for name, files in classes.items() if len(files) > 1)
    rng = np.random.RandomState(seed)  # the one generator whose numbers NumPy promises never to change
    return [repeated[index] for index in rng.permutation(len(repeated))[: round(UNSEEN * len(classes))].tolist()]


def _placed(pairs: list[Pair], files: list[str], where: Path) -> GivenPairs:
    """The pairs as indices of the test's pictures."""
    index_of: dict[tuple[str, str], int] = {}
    for index, file in enumerate(files):
        path = PurePath(file)
        index_of.setdefault((path.parent.name, path.stem), index)
    indices = np.empty((len(pairs), 2), np.int64)
    for row, pair in enumerate(pairs):
        for column, (name, number) in enumerate(((pair.name, pair.number), (pair.other, pair.other_number))):
            forms = f"{name}_{number:04d}", f"{name}_{number}"
            found = next((index_of[name, form] for form in forms if (name, form) in index_of), None)
            if found is None:
                raise DataError(
                    f"{quoted(where)}, line {pair.line}: the test has no picture {quoted(forms[0])} in a class folder "
                    f"{quoted(name)}; correct the line, or add the picture."
                )
            indices[row, column] = found
    return GivenPairs(indices, np.array([pair.fold for pair in pairs], np.int64))
