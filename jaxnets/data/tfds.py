"""Sets of TensorFlow Datasets (TFDS), prepared on disk in a random-access format and read without TensorFlow.

Nothing is downloaded here. TFDS needs TensorFlow to unpack and encode what it downloads, so a set is prepared once,
where TensorFlow is, by TFDS's own command: `tfds build NAME --file_format=array_record`.
"""

import difflib
import io
import os
import re
import textwrap
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxnets.data.dataset import DataError, Dataset, Split

# tensorflow_datasets is imported inside the functions: it is slow to import, and MNIST does without it.

_PILLOW_MODE = {1: "L", 3: "RGB"}  # by the number of channels

# Sets without a feature `label`, and the one of yes and no that stands in for it: its path, and the classes.
_YES_OR_NO = {"celeb_a": (("attributes", "Male"), ("female", "male"))}


def load_tfds(name: str, *, data_dir: str | os.PathLike[str] | None = None, size: int | None = None) -> Dataset:
    """Any prepared image-classification set of TFDS, greyscale or RGB.

    Args:
      name: as TFDS spells it, NAME, NAME/CONFIG or either with :VERSION after it; a set of one's own too.
      data_dir: the folder of prepared sets; by default the environment's TFDS_DATA_DIR, or ~/tensorflow_datasets.
      size: the height and width to bring all images to, bilinearly and antialiased, whatever their ratio was; None
        keeps the size they have, which must be one.

    Returns:
      The features `image` and `label` of the splits `train` and `test` (`validation` where there is no test), in the
      order they are stored in, which TFDS shuffled when it prepared the set. The classes are those of the label. The
      label of celeb_a is its attribute `Male`.

    Raises:
      DataError: if the set is unknown, not prepared, or prepared as TFRecord; if it lacks a split or a feature; or if
        its images cannot be decoded or, without `size`, differ in size.
    """
    # TFDS reads the variable once, when it is imported; read here, it may be set at any time before.
    builder = _prepared_builder(name, data_dir or os.environ.get("TFDS_DATA_DIR"))
    if size is not None and size < 1:
        raise DataError(f"tfds:{name}: size is {size}; give a height and width of at least 1 pixel.")
    label_path, classes = _label_and_classes(builder, f"tfds:{name}")
    channels = _channels(builder.info.features, f"tfds:{name}")
    splits = builder.info.splits
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        raise DataError(
            f"tfds:{name}: has the splits {', '.join(splits) or '(none)'} but needs train and one of test and "
            "validation; choose a set or configuration with both."
        )
    return Dataset(
        train=_read_split(builder, "train", label_path, channels, size, f"tfds:{name}, train split"),
        test=_read_split(builder, test, label_path, channels, size, f"tfds:{name}, {test} split"),
        classes=classes,
        name=f"tfds:{name}",
    )


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
    if not builder.is_prepared():
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


def _channels(features: Any, where: str) -> int:
    import tensorflow_datasets as tfds

    image = dict(features.items()).get("image")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8 or image.shape[-1] not in _PILLOW_MODE:
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


def _read_split(
    builder: Any, split: str, label_path: tuple[str, ...], channels: int, size: int | None, where: str
) -> Split:
    import tensorflow_datasets as tfds

    # TFDS decodes by OpenCV or by Pillow, whichever is there, and the latter way misreads palette and 1-bit PNG.
    # So no image feature is decoded by TFDS: `image` is decoded below, and others, such as masks, not at all.
    encoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    examples = builder.as_data_source(split, decoders=encoded)
    images = np.empty((len(examples), 0, 0, channels), np.uint8)
    labels = np.empty(len(examples), np.int32)
    for index in range(len(examples)):
        try:
            example = examples[index]
            pixels = _decode(example["image"], channels, size)
        except (RuntimeError, OSError, SyntaxError, ValueError) as error:  # what ArrayRecord and Pillow raise
            raise DataError(
                f"{where}: example {index} cannot be read ({_brief(error)}); prepare the set again."
            ) from error
        if index == 0:
            images = np.empty((len(examples), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{where}: images differ in size, {images.shape[1:]} (H, W, C) at first and {pixels.shape} at image "
                f"{index}; give the size that all are to be brought to."
            )
        images[index], labels[index] = pixels, reduce(getitem, label_path, example)
    return Split(images, labels)


def _decode(encoded: bytes, channels: int, size: int | None) -> UInt8[np.ndarray, "H W C"]:
    with Image.open(io.BytesIO(encoded)) as stored:
        image = stored.convert(_PILLOW_MODE[channels])
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], channels)


def _brief(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 250, placeholder=" …").rstrip(" .:")
