"""Image-classification data: one name in, one `Dataset` out, whole in memory as uint8."""

import difflib
import os

from jaxnets.data.dataset import DataError, Dataset, Split
from jaxnets.data.idx import load_folder, load_mnist
from jaxnets.data.tfds import load_tfds

__all__ = ["DataError", "Dataset", "Split", "load"]


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The data set of that name.

    Args:
      name: one of
        "mnist": the bundled MNIST;
        "idx:DIRECTORY": a folder of four IDX files, as those of Fashion-MNIST or KMNIST;
        "tfds:NAME", "tfds:NAME/CONFIG", "tfds:NAME:VERSION": a prepared set of TensorFlow Datasets.
      data_dir: for "tfds:" only, the folder of prepared sets in place of TFDS's own default.

    Returns:
      The data set on the host: images [N, H, W, C] uint8, labels [N] int32.

    Raises:
      DataError: if there is no such set, or it is incomplete, corrupt or of another kind, in one sentence.
    """
    scheme, _, rest = name.partition(":")
    if data_dir is not None and scheme != "tfds":
        raise DataError(f"{name}: data_dir={os.fspath(data_dir)!r} has no meaning here; it is for 'tfds:NAME' alone.")
    if name == "mnist":
        return load_mnist()
    if scheme == "idx" and rest:
        return load_folder(rest)
    if scheme == "tfds" and rest:
        return load_tfds(rest, data_dir=data_dir)
    forms = {"mnist": "mnist", "idx": "idx:DIRECTORY", "tfds": "tfds:NAME"}
    nearest = difflib.get_close_matches(scheme, forms, n=1, cutoff=0)[0]
    raise DataError(f"{name!r}: no such data set; there are {', '.join(forms.values())}, the nearest {forms[nearest]}.")
