"""The classes of a set: only classes with pictures in training count, whatever its labels or folders promise."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Integer

from jaxnets.data.dataset import DataError
from jaxnets.naming import quoted

TEST_SHARE = 10  # one in so many is held out of a set without a split of its own
_NAMED = 10  # classes in a sentence, at most


class Counted(NamedTuple):
    """Labels that count only classes with a picture to train on.

    Attributes:
      classes: the name of each.
      train_labels: [N] int32, an index into `classes`.
      test_labels: [K] int32, the same for the test pictures that are kept.
      kept: [K] indices of these test pictures; the others are of classes without a training picture.
      notes: a sentence for each thing that was left out or is missing.
    """

    classes: tuple[str, ...]
    train_labels: Int32[np.ndarray, " N"]
    test_labels: Int32[np.ndarray, " K"]
    kept: Int[np.ndarray, " K"]
    notes: tuple[str, ...]


def count_classes(
    train_labels: Integer[np.ndarray, " N"],
    test_labels: Integer[np.ndarray, " M"],
    classes: tuple[str, ...],
    *,
    name: str,
) -> Counted:
    """Numbers the classes anew, without classes that have no picture in training.

    A class that nobody has would get a direction of its own, take part in every loss and angle between classes, and
    change the scale that suits their number.

    Args:
      train_labels: indices into `classes`, at least one.
      test_labels: the same.
      classes: the name of each label.
      name: of the set, for the message.

    Raises:
      DataError: if no test picture is of a class that training has.
    """
    present, counts = np.unique(train_labels), np.bincount(test_labels, minlength=len(classes))
    renumbered = np.full(len(classes), -1, np.int32)
    renumbered[present] = np.arange(len(present), dtype=np.int32)
    new_test_labels = renumbered[test_labels]
    kept = np.flatnonzero(new_test_labels >= 0)
    names = tuple(classes[label] for label in present.tolist())
    notes = []
    unseen = np.flatnonzero(renumbered < 0).tolist()
    if unseen:
        dropped = len(test_labels) - len(kept)
        theirs = f", and {_counted(dropped, 'test picture', 'test pictures')} of theirs" if dropped else ""
        those = _listed([classes[label] for label in unseen])
        notes.append(
            f"Left out {_counted(len(unseen), 'class', 'classes')} without a training picture ({those}){theirs}."
        )
        if not len(kept):
            raise DataError(
                f"{name}, test split: none of its {len(test_labels)} pictures is of a class that the train split has "
                f"({_listed(names)}); give both splits the same classes."
            )
    untested = [classes[label] for label in present.tolist() if not counts[label]]
    if untested:
        notes.append(
            f"The test split has no picture of {_counted(len(untested), 'class', 'classes')} ({_listed(untested)})."
        )
    return Counted(names, renumbered[train_labels], new_test_labels[kept], kept, tuple(notes))


def count_identities(
    train_labels: Integer[np.ndarray, " N"], test_labels: Integer[np.ndarray, " M"], classes: tuple[str, ...]
) -> Counted:
    """Numbers the classes of an open set anew: first training's, then the test's, none without a picture.

    Args:
      train_labels: indices into `classes`, none of which the test has.
      test_labels: the same of the test.
      classes: the name of each label.
    """
    present = [*np.unique(train_labels).tolist(), *np.unique(test_labels).tolist()]
    renumbered = np.full(len(classes), -1, np.int32)
    renumbered[present] = np.arange(len(present), dtype=np.int32)
    missing = [classes[label] for label in np.flatnonzero(renumbered < 0).tolist()]
    left_out = f"Left out {_counted(len(missing), 'identity', 'identities')} without a picture ({_listed(missing)})."
    notes = (left_out,) if missing else ()
    names = tuple(classes[label] for label in present)
    return Counted(names, renumbered[train_labels], renumbered[test_labels], np.arange(len(test_labels)), notes)


def hold_out(names: list[str], labels: Integer[np.ndarray, " N"]) -> Int[np.ndarray, " K"]:
    """Indices of a tenth of each class, at least one, drawn by the SHA-256 of the names; none of a class of one."""
    digests = np.array([hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names], "S32")
    order = np.lexsort((digests, labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    ranks = np.arange(len(names)) - starts[labels[order]]
    share = np.where(counts < 2, 0, np.maximum(1, counts // TEST_SHARE))
    return order[ranks < share[labels[order]]]


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(quoted(name, 40) for name in names[:_NAMED]) + more
