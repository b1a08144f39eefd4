"""Sets of TensorFlow Datasets (TFDS), prepared on disk in a random-access format and read without TensorFlow.

Nothing is downloaded here. TFDS needs TensorFlow to unpack and encode its downloads, so a set is prepared once,
where TensorFlow is, by TFDS's own command: `tfds build NAME --file_format=array_record`.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.data.dataset import DataError
from jaxnets.data.pictures import Encoded, Splits
from jaxnets.data.tfds_features import check_features
from jaxnets.naming import nearest, quoted

# tensorflow_datasets is imported inside the functions: it is slow to import, and MNIST does without it.

_CHANNELS = (1, 3)

# Sets that have no feature `label`: the path of a Boolean feature that is used in its place, and its two classes.
_YES_OR_NO = {"celeb_a": (("attributes", "Male"), ("female", "male"))}


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
            label, content = int(reduce(getitem, self.label_path, example)), bytes(example["image"])
        except Exception as error:  # of a damaged example: ArrayRecord and TFDS have many types
            raise DataError(f"{self.where(index)} cannot be read ({_brief(error)}).") from error
        if not 0 <= label < self.num_classes:
            raise DataError(f"{self.where(index)} has the label {label}, outside 0 to {self.num_classes - 1}.")
        return Encoded(content, label)


def find_tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Splits:
    """The features `image` and `label` of the splits `train` and `test` (`validation` where there is no test) of a set.

    The classes are the label's. The label of celeb_a is its attribute `Male`. Nothing is decoded yet, nothing is
    downloaded, and no module that the set names is imported.

    Raises:
      DataError: if the set is unknown, not prepared, or prepared as TFRecord; if it lacks a split or a feature; or if
        its description is damaged or names Python modules other than TFDS's own.
    """
    where = f"tfds:{quoted(name, 100)}"
    # TFDS reads the variable once, when it is imported; read here, it may be set at any time before.
    builder = _prepared_builder(name, data_dir or os.environ.get("TFDS_DATA_DIR"), where)
    try:
        return _find(builder, where)
    except DataError:
        raise
    except Exception as error:  # a damaged description: TFDS has no type of its own for it
        raise DataError(
            f"{where}: TensorFlow Datasets cannot read {quoted(builder.data_dir)} ({_brief(error)}); prepare it anew."
        ) from error


def _find(builder: Any, where: str) -> Splits:
    label_path, classes = _label_and_classes(builder, where)
    channels = _channels(builder.info.features, where)
    splits = builder.info.splits
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise DataError(
            f"{where}: has the splits {quoted(', '.join(splits)) or '(none)'} but needs train and one of test and "
            "validation; choose a set or configuration with both."
        )
    train, test_examples = (
        Examples(
            _source(builder, split),
            label_path=label_path,
            num_classes=len(classes),
            channels=channels,
            place=Path(builder.data_dir),
            key=_key(builder, split, label_path, classes),
            title=f"{where}, {split} split",
        )
        for split in ("train", test)
    )
    return Splits(train, test_examples, classes)


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None, where: str) -> Any:
    import tensorflow_datasets as tfds

    place = os.path.expanduser(data_dir or "~/tensorflow_datasets")
    _check_before_tfds(name, place if data_dir else None, where)
    try:
        # Without a folder TFDS also searches the folders that the program gave to `tfds.core.add_data_dir`.
        builder = tfds.builder(name, data_dir=place if data_dir else None)
    except tfds.core.DatasetNotFoundError:
        prepared = {folder.name for folder in Path(place).glob("*/")}
        known = sorted(prepared.union(tfds.list_builders(with_community_datasets=False)))
        raise DataError(
            f"{where}: no such set is prepared in {quoted(place)} or known to TensorFlow Datasets"
            f"{nearest(re.split('[/:]', name)[0], known)} Or name another folder by data_dir= or TFDS_DATA_DIR."
        ) from None
    except Exception as error:  # a bad version, configuration or description: each has its own type in TFDS
        raise DataError(f"{where}: TensorFlow Datasets refuses it ({_brief(error)}); correct the name.") from error
    build = f"`tfds build {quoted(name, 100)} --file_format=array_record"
    with _warnings_of_tfds_off():  # of a set that is not there, which is said here
        is_prepared = builder.is_prepared()
    if not is_prepared:
        raise DataError(
            f"{where}: not prepared in {quoted(place)}; run {build}` on a machine with internet and TensorFlow, copy "
            "its ~/tensorflow_datasets here, and name that folder by data_dir= or TFDS_DATA_DIR."
        )
    formats = builder.info.available_file_formats()
    if not formats & tfds.core.FileFormat.with_random_access():
        raise DataError(
            f"{where}: prepared as {' and '.join(each.value for each in formats)} in {quoted(builder.data_dir)}, "
            f"without random access; run {build} --data_dir=ANOTHER` where TensorFlow is, and name that folder by "
            "data_dir= or TFDS_DATA_DIR."
        )
    return builder


def _check_before_tfds(name: str, place: str | None, where: str) -> None:
    """Refuses a name for which TFDS would download, look elsewhere, or import a module that the set names."""
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.utils import file_utils

    try:
        parsed, options = naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise DataError(f"{where}: TensorFlow Datasets refuses it ({_brief(error)}); correct the name.") from error
    config = str(options.get("config") or "")
    if parsed.namespace or options.keys() - {"config", "version"} or "=" in name or set(config) == {"."}:
        raise DataError(
            f"{where}: is not of the form NAME, NAME/CONFIG or NAME:VERSION; sets of other repositories (as "
            "huggingface:NAME) are not downloaded."
        )
    for folder in file_utils.list_data_dirs(given_data_dir=place):
        for pattern in ("*/features.json", "*/*/features.json"):  # by version, or by configuration and version
            for file in sorted(Path(folder, parsed.name).glob(pattern)):
                check_features(file)


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


def _key(builder: Any, split: str, label_path: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """Sixteen digits that change with the classes, and the name, size or time of modification of a file of the split.

    A label that was checked for other classes may be none of these.
    """
    facts: list[object] = [builder.info.full_name, split, label_path, classes]
    for file in map(Path, builder.info.splits[split].filepaths):
        about = file.stat() if file.exists() else None  # one that is missing is said when it is read
        facts.append(f"{file.name} {about and (about.st_size, about.st_mtime_ns)}")
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _brief(error: Exception) -> str:
    return quoted(" ".join((str(error) or type(error).__name__).split()), 250).rstrip(" .:")
