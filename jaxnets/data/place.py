"""The folder that a person names."""

from pathlib import Path

from jaxnets.data.dataset import DataError
from jaxnets.naming import quoted


def existing_folder(directory: str, otherwise: str) -> Path:
    """The folder of that name, in which ~ is the home directory.

    Args:
      directory: its name.
      otherwise: the advice of the message, where there is none.

    Raises:
      DataError: if there is none.
    """
    try:
        folder = Path(directory).expanduser()
        is_there = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a home of nobody, a zero byte
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise DataError(f"{quoted(directory)}: no directory can be of that name ({reason}); {otherwise}.") from error
    if not is_there:
        raise DataError(f"{quoted(folder)}: no such directory; {otherwise}.")
    return folder
