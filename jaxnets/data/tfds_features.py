"""The features that a prepared set names, checked before TensorFlow Datasets reads it.

TFDS imports each Python module that features.json names as the home of a feature's class. The module may lie in the
current folder, come with the set, and do anything when it is imported.
"""

import json
from pathlib import Path
from typing import Any

from jaxnets.data.dataset import DataError
from jaxnets.files import read_regular
from jaxnets.naming import quoted

_HOME = "tensorflow_datasets.core.features."
_CLASS_NAMES = ("pythonClassName", "python_class_name", "type")  # TFDS reads all three, the last one in old sets
_MAX_BYTES = 2**24


def check_features(file: Path) -> None:
    """Refuses a features.json that names a class from outside of `tensorflow_datasets.core.features`.

    Raises:
      DataError: if it does, or if the file cannot be read.
    """
    where = quoted(file)
    try:
        left: list[Any] = [json.loads(read_regular(file, limit=_MAX_BYTES))]
        while left:
            value = left.pop()
            if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
                left.append(json.loads(value))  # a feature within a feature may be JSON in a string
            elif isinstance(value, list):
                left += value
            elif isinstance(value, dict):
                left += value.values()
                for name in (value.get(key) for key in _CLASS_NAMES):
                    if isinstance(name, str) and "." in name and not name.startswith(_HOME):
                        raise DataError(
                            f"{where}: names the Python class {quoted(name, 100)}, whose module would be imported; "
                            f"only features from {_HOME.rstrip('.')} are read."
                        )
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{where}: cannot be read ({quoted(reason, 100)}); prepare the set anew.") from error
