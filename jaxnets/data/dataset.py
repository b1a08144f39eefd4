"""The type that every data source returns and every experiment takes: labelled images, in memory or mapped."""

import dataclasses
import hashlib
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32

from jaxnets.data.mapped import pieces
from jaxnets.naming import quoted

Array = np.ndarray | jax.Array


class DataError(ValueError):
    """A data set that cannot be used: one sentence that tells the fault, the place and the remedy."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images, on the host (NumPy) or on a device (JAX); a pytree, so jitted functions take it whole.

    Attributes:
      images: [N, H, W, C] uint8, as stored: 0 to 255, not normalised.
      labels: [N] int32, an index into `Dataset.classes`.
    """

    # A pytree is rebuilt with anything for leaves, tracers and shapes among them: the checks are in Dataset, which is
    # no pytree.
    images: Any
    labels: Any


class GivenPairs(NamedTuple):
    """The P pairs of pictures of a test that a protocol gives, in folds; their labels tell which are of one identity.

    Attributes:
      indices: [P, 2], of the test's pictures.
      folds: [P], the number of each pair's fold.
    """

    indices: Int[np.ndarray, "P 2"]
    folds: Int[np.ndarray, "P"]


class Sources(NamedTuple):
    """Where a test's pictures are from: of printed characters, the designs.

    Attributes:
      of_test: [N] int32, an index into `names`.
      names: of the S sources.
      enrols: [S], whether its pictures may enrol an identity, as passport pictures do; all others are probes only.
    """

    of_test: Int32[np.ndarray, "N"]
    names: tuple[str, ...]
    enrols: Bool[np.ndarray, "S"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A train and a test split that one network can take: same image shape, same classes.

    Attributes:
      train: images [N, H, W, C] uint8 and labels [N] int32.
      test: the same with its own N.
      classes: the name of each label; C is its length.
      name: as it was given to `jaxnets.data.load`.
      notes: sentences that a user of the set should read.
      open_set: no class of the test is in training, and classes of training come first: a set for questions about
        classes never seen (`jaxnets.recognition`), in which an accuracy over classes means nothing.
      pairs: pairs of the test's pictures to verify; None where the set gives none.
      sources: where the test's pictures are from; None where the set does not say.

    Raises:
      DataError: from the constructor, if a shape, a dtype or a label does not hold to the above, if images and
        labels are not equally many, or if there are none. Label values are checked on host arrays only, since
        reading a device array would wait for the device.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    open_set: bool = False
    pairs: GivenPairs | None = None
    sources: Sources | None = None

    def __post_init__(self) -> None:
        name = quoted(self.name)
        if not self.classes:
            raise DataError(f"{name}: classes is empty; name at least one class.")
        _check_split(self.train, len(self.classes), f"{name}, train split")
        _check_split(self.test, len(self.classes), f"{name}, test split")
        train_shape, test_shape = self.train.images.shape[1:], self.test.images.shape[1:]
        if train_shape != test_shape:
            raise DataError(
                f"{name}: train images are {train_shape} and test images {test_shape} (H, W, C); "
                "bring both to one size."
            )
        if self.open_set and isinstance(self.train.labels, np.ndarray) and isinstance(self.test.labels, np.ndarray):
            shared = np.intersect1d(self.train.labels, self.test.labels)
            if len(shared):
                shown = quoted(self.classes[shared[0]])
                raise DataError(
                    f"{name}: class '{shown}' is in both splits of an open set; leave it out of one of them."
                )

    def fingerprint(self) -> str:
        """Sixteen digits of a SHA-256 over every shape, pixel, label and class name, and over the pairs."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                digest.update(repr(array.shape).encode())
                for piece in pieces(np.asarray(array)):
                    digest.update(piece.data)
        for array in self.pairs or ():
            digest.update(np.ascontiguousarray(array, "<i8").data)
        return digest.hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        """Bytes of the images and labels of both splits."""
        return sum(array.nbytes for split in (self.train, self.test) for array in (split.images, split.labels))

    def to_device(self) -> "Dataset":
        """The same data set with both splits as arrays on JAX's default device, still uint8."""
        return dataclasses.replace(self, train=jax.device_put(self.train), test=jax.device_put(self.test))


def _check_split(split: Split, num_classes: int, where: str) -> None:
    images, labels = split.images, split.labels
    if not isinstance(images, Array) or images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"{where}: images are {_describe(images)}; give a uint8 array [N, H, W, C].")
    if not isinstance(labels, Array) or labels.dtype != np.int32 or labels.ndim != 1:
        raise DataError(f"{where}: labels are {_describe(labels)}; give an int32 array [N].")
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels; give one label for each image.")
    if images.size == 0:
        raise DataError(f"{where}: images are {_describe(images)}, which is empty; give at least one image.")
    if isinstance(labels, np.ndarray):
        outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
        if len(outside):
            raise DataError(
                f"{where}: label {labels[outside[0]]} of example {outside[0]} is outside 0 to {num_classes - 1}; "
                f"correct it, or name more than {num_classes} classes."
            )


def _describe(value: object) -> str:
    if isinstance(value, Array):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
