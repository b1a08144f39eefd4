"""Sets of TensorFlow Datasets (TFDS), prepared on disk in a random-access format and read without TensorFlow.

Nothing is downloaded here. TFDS needs TensorFlow to unpack and encode what it downloads, so a set is prepared once,
where TensorFlow is, by TFDS's own command: `tfds build NAME --file_format=array_record`.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import logging
import os
import re
import textwrap
from collections.abc import Iterator
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxnets.data.cache import Progress
from jaxnets.data.dataset import DataError, Dataset
from jaxnets.data.decoded import load_pictures
from jaxnets.data.decoding import decode
from jaxnets.data.pictures import Encoded

# tensorflow_datasets is imported inside the functions: it is slow to import, and MNIST does without it.

_CHANNELS = (1, 3)

# Sets without a feature `label`, and the one of yes and no that stands in for it: its path, and the classes.
_YES_OR_NO = {"celeb_a": (("attributes", "Male"), ("female", "male"))}


def load_tfds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    size: int | None = None,
    skip_unreadable: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Any prepared image-classification set of TFDS, greyscale or RGB (see `find_tfds`).

    Its pictures are decoded once (see `jaxnets.data.decoded.load_pictures`) and then kept, in N·H·W·C bytes, which
    later calls map into memory.

    Args:
      name: as TFDS spells it, NAME, NAME/CONFIG or either with :VERSION after it; a set of one's own too.
      data_dir: the folder of prepared sets; by default the environment's TFDS_DATA_DIR, or ~/tensorflow_datasets.
      size: the height and width to bring all images to, bilinearly and antialiased, whatever their ratio was; None
        keeps the size they have, which must be one.
      skip_unreadable: leave out the examples that cannot be read, rather than refuse the set; `notes` names them.
      on_progress: called with (done, total) while pictures are decoded, and not at all where they are kept already.

    Raises:
      DataError: as `find_tfds` and `load_pictures`.
    """
    if size is not None and size < 1:
        raise DataError(f"tfds:{name}: size is {size}; give a height and width of at least 1 pixel.")
    found = find_tfds(name, data_dir=data_dir)
    if size is None:
        first = decode(found.train[0].content, (None, None, found.train.channels), where=found.train.where(0))
        height, width = first.shape[:2]
    else:
        height, width = size, size
    return load_pictures(
        found.train,
        found.test,
        size=(height, width),
        own_size=size is None,
        classes=found.classes,
        name=f"tfds:{name}",
        skip_unreadable=skip_unreadable,
        on_progress=on_progress,
    )


@dataclasses.dataclass(frozen=True)
class Examples:
    """A split of a prepared set as `jaxnets.data.pictures.Pictures`, in the order of the files, which TFDS shuffled."""

    source: Any  # of TFDS
    label_path: tuple[str, ...]
    num_classes: int
    channels: int
    place: Path
    key: str
    title: str  # of the set and the split

    @cached_property
    def labels(self) -> Int32[np.ndarray, " N"]:
        return np.array([self[index].label for index in range(len(self))], np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return f"{self.title.rpartition(', ')[2]}, example {index}"

    def where(self, index: int) -> str:
        return f"{self.title}: example {index}"

    def __getitem__(self, index: int) -> Encoded:
        """An example's picture and label.

        Raises:
          DataError: if it cannot be read, or its label is none of the classes.
        """
        try:
            example = self.source[index]
        except (RuntimeError, OSError, ValueError) as error:  # what ArrayRecord and TFDS raise
            raise DataError(f"{self.where(index)} cannot be read ({_brief(error)}).") from error
        label = int(reduce(getitem, self.label_path, example))
        if not 0 <= label < self.num_classes:
            raise DataError(f"{self.where(index)} has the label {label}, outside 0 to {self.num_classes - 1}.")
        return Encoded(example["image"], label)


class FoundSplits(NamedTuple):
    """A train and a test split whose labels are indices into `classes`."""

    train: Examples
    test: Examples
    classes: tuple[str, ...]


def find_tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> FoundSplits:
    """The features `image` and `label` of the splits `train` and `test` (`validation` where there is no test) of a set.

    The classes are those of the label. The label of celeb_a is its attribute `Male`. Nothing is decoded yet.

    Raises:
      DataError: if the set is unknown, not prepared, or prepared as TFRecord; or if it lacks a split or a feature.
    """
    # TFDS reads the variable once, when it is imported; read here, it may be set at any time before.
    builder = _prepared_builder(name, data_dir or os.environ.get("TFDS_DATA_DIR"))
    label_path, classes = _label_and_classes(builder, f"tfds:{name}")
    channels = _channels(builder.info.features, f"tfds:{name}")
    splits = builder.info.splits
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise DataError(
            f"tfds:{name}: has the splits {', '.join(splits) or '(none)'} but needs train and one of test and "
            "validation; choose a set or configuration with both."
        )
    train, test_examples = (
        Examples(
            _source(builder, split),
            label_path=label_path,
            num_classes=len(classes),
            channels=channels,
            place=Path(builder.data_dir),
            key=_key(builder, split),
            title=f"tfds:{name}, {split} split",
        )
        for split in ("train", test)
    )
    return FoundSplits(train, test_examples, classes)


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    import tensorflow_datasets as tfds

    place = os.path.expanduser(data_dir or "~/tensorflow_datasets")
    try:
        # Without a folder TFDS also searches those that the program gave to `tfds.core.add_data_dir`.
        builder = tfds.builder(name, data_dir=place if data_dir else None)
    except tfds.core.DatasetNotFoundError:
        candidates = {folder.name for folder in Path(place).glob("*/")}
        candidates.update(tfds.list_builders(with_community_datasets=False))
        nearest = difflib.get_close_matches(re.split("[/:]", name)[0], sorted(candidates), n=1, cutoff=0)[0]
        raise DataError(
            f"tfds:{name}: no such set is prepared in {place} or known to TensorFlow Datasets, the nearest is "
            f"tfds:{nearest}; correct the name, or name another folder by data_dir= or TFDS_DATA_DIR."
        ) from None
    except Exception as error:  # a bad spelling, version, configuration or argument: each has its own type in TFDS
        raise DataError(f"tfds:{name}: TensorFlow Datasets refuses it ({_brief(error)}); correct the name.") from error
    build = f"`tfds build {name} --file_format=array_record"
    with _warnings_of_tfds_off():  # of a set that is not there, which is said here
        is_prepared = builder.is_prepared()
    if not is_prepared:
        raise DataError(
            f"tfds:{name}: not prepared in {place}; run {build}` on a machine with internet and TensorFlow, copy its "
            "~/tensorflow_datasets here, and name that folder by data_dir= or TFDS_DATA_DIR."
        )
    formats = builder.info.available_file_formats()
    if not formats & tfds.core.FileFormat.with_random_access():
        raise DataError(
            f"tfds:{name}: prepared as {' and '.join(each.value for each in formats)} in {builder.data_dir}, without "
            f"random access; run {build} --data_dir=ANOTHER` where TensorFlow is, and name that folder by data_dir= "
            "or TFDS_DATA_DIR."
        )
    return builder


@contextlib.contextmanager
def _warnings_of_tfds_off() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _channels(features: Any, where: str) -> int:
    import tensorflow_datasets as tfds

    image = dict(features.items()).get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8 or image.shape[-1] not in _CHANNELS:
        raise DataError(
            f"{where}: its feature 'image' is {image} but must be an Image of uint8 with 1 or 3 channels; choose "
            "another set or configuration."
        )
    return int(image.shape[-1])


def _label_and_classes(builder: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where an example's label is, as a path of keys, and the name of each of its values."""
    import tensorflow_datasets as tfds

    if builder.name in _YES_OR_NO:
        return _YES_OR_NO[builder.name]
    label = dict(builder.info.features.items()).get("label")
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise DataError(f"{where}: its feature 'label' is {label} but must be a ClassLabel; choose another set.")
    return ("label",), tuple(label.names)


def _source(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    # TFDS decodes by OpenCV or by Pillow, whichever is there, and the latter way misreads palette and 1-bit PNG.
    # So no image feature is decoded by TFDS: `image` is decoded here, and others, such as masks, not at all.
    encoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return builder.as_data_source(split, decoders=encoded)


def _key(builder: Any, split: str) -> str:
    """Sixteen digits that change with the name, size or time of modification of any of the split's files."""
    facts = [builder.info.full_name, split]
    for file in map(Path, builder.info.splits[split].filepaths):
        about = file.stat() if file.exists() else None  # one that is missing is said when it is read
        facts.append(f"{file.name} {about and (about.st_size, about.st_mtime_ns)}")
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _brief(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 250, placeholder=" …").rstrip(" .:")
