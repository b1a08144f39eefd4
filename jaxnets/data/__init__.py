"""Image-classification data: one name in, one `Dataset` out, as uint8."""

import os
from pathlib import Path

from jaxnets.data.dataset import DataError, Dataset, Split
from jaxnets.data.decoded import load_pictures
from jaxnets.data.faces import load_faces
from jaxnets.data.folder import find_class_folders
from jaxnets.data.glyphs import load_glyphs
from jaxnets.data.identities import find_identities
from jaxnets.data.idx import load_folder, load_mnist
from jaxnets.data.pictures import Splits
from jaxnets.data.records import find_records
from jaxnets.data.tar_pictures import find_tars
from jaxnets.data.tfds import find_tfds
from jaxnets.data.threads import Progress
from jaxnets.naming import nearest, quoted

__all__ = ["STORED", "DataError", "Dataset", "Progress", "Split", "Splits", "find", "load"]

STORED = ("folder:", "tfds:", "recordio:", "tar:")  # the beginnings of names that `find` takes


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    size: int | None = None,
    skip_unreadable: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """The data set of that name. Its classes are the classes with pictures in training.

    Args:
      name: one of
        "mnist": the bundled MNIST;
        "idx:DIRECTORY": a folder of four IDX files, such as Fashion-MNIST, KMNIST or EMNIST;
        "folder:PATH": pictures in class folders, PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/*;
        "faces": faces drawn by this package, in two classes, which say nothing about people;
        "glyphs", "glyphs:DIRECTORY": characters in the fonts that matplotlib ships, or in a folder's; the test's
          characters are not in training (`Dataset.open_set`);
        "identities:PATH": pictures in class folders, of which a quarter of the classes are in the test and not in
          training; or PATH/train and PATH/test without a class in common; PATH/pairs.txt, if there is one, has pairs to
          verify in LFW's format (`Dataset.pairs`); or PATH/train.rec, whose classes are split so;
        "tfds:NAME", "tfds:NAME/CONFIG", "tfds:NAME:VERSION": a prepared set of TensorFlow Datasets;
        "recordio:DIRECTORY": a folder of train.rec and train.idx, MXNet's format, as insightface's sets of faces have;
        "tar:PATH": a tar, or a folder of tars, of pictures KEY.jpg beside their classes KEY.cls, as WebDataset's.
      data_dir: for "tfds:" only, the folder of prepared sets in place of TFDS's own default, which is the environment's
        TFDS_DATA_DIR or ~/tensorflow_datasets.
      size: height and width in pixels, for "folder:" and "faces", where None is 224, "glyphs", where it is 32,
        "identities:", where it is 112, and "tfds:", "recordio:" and "tar:", where None is the size that images have.
      skip_unreadable: leave out pictures and fonts that cannot be read, rather than refuse the set.
      on_progress: called with (done, total) while pictures are decoded or drawn.

    Returns:
      The data set on the host: images [N, H, W, C] uint8, labels [N] int32. Those of "folder:", "identities:", "tfds:",
      "recordio:" and "tar:" are decoded once, kept in N·H·W·C bytes (see `jaxnets.data.decoded.load_pictures`), and
      mapped into memory. If a file's name, size or time of modification changes, all of them are decoded anew.

    Raises:
      DataError: if there is no such set, or it is incomplete, corrupt or of another kind, in one sentence.
    """
    scheme, _, rest = name.partition(":")
    shown = quoted(name)
    if data_dir is not None and scheme != "tfds":
        raise DataError(
            f"{shown}: data_dir={quoted(os.fspath(data_dir))!r} has no meaning here; it is for 'tfds:NAME' alone."
        )
    if size is not None and scheme in ("mnist", "idx"):
        raise DataError(f"{shown}: size={size} has no meaning here; its images keep the size that they have.")
    if name == "mnist":
        return load_mnist()
    if scheme == "idx" and rest:
        return load_folder(rest)
    if name.startswith((*STORED, "identities:")) and rest:
        if size is None:
            size = {"folder": 224, "identities": 112}.get(scheme)
        found = find_identities(rest) if scheme == "identities" else find(name, data_dir=data_dir)
        return load_pictures(found, size=size, name=name, skip_unreadable=skip_unreadable, on_progress=on_progress)
    if name == "faces":
        return load_faces(size=224 if size is None else size)
    if name == "glyphs" or (scheme == "glyphs" and rest):
        return load_glyphs(
            rest or None, size=32 if size is None else size, skip_unreadable=skip_unreadable, on_progress=on_progress
        )
    forms = {"mnist": "mnist", "idx": "idx:DIRECTORY", "folder": "folder:PATH", "faces": "faces", "glyphs": "glyphs"}
    forms |= {"identities": "identities:PATH", "tfds": "tfds:NAME", "recordio": "recordio:DIRECTORY", "tar": "tar:PATH"}
    if _is_directory(name):
        raise DataError(
            f"{shown}: is a directory; write 'folder:{shown}' if it has pictures in class folders, or 'idx:{shown}' if "
            "it has the four IDX files of a set like MNIST."
        )
    meant = f"; did you mean {forms[scheme]!r}?" if scheme in forms else nearest(scheme, [*forms])
    raise DataError(f"'{shown}': no such data set (known are {', '.join(forms.values())}){meant}")


def find(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Splits:
    """The pictures of a "folder:", "tfds:", "recordio:" or "tar:", still encoded, for `jaxnets.data.streaming`.

    Args:
      name: as for `load`.
      data_dir: as for `load`.

    Raises:
      DataError: if there is no such set, or it is incomplete, corrupt or of another kind, in one sentence.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "tfds" and rest:
        return find_tfds(rest, data_dir=data_dir)
    finds = {"folder": find_class_folders, "recordio": find_records, "tar": find_tars}
    if scheme in finds and rest:
        return finds[scheme](rest)
    raise DataError(f"{quoted(name)}: is no set of stored pictures, which are named {', '.join(STORED)} and a place.")


def _is_directory(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir() and name != ""
    except (OSError, RuntimeError, ValueError):
        return False
