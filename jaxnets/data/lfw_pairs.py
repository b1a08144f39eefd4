"""Pairs for verification as Labeled Faces in the Wild has them, in the file pairs.txt of its "view 2".

The first line has the number of folds F and of pairs P. Then, F times, follow P lines "name n1 n2", two pictures of one
identity, and P lines "name n1 other n2", of two. What is in a line is divided by tabs, or by blanks.

G. Huang, M. Ramesh, T. Berg, E. Learned-Miller, Labeled Faces in the Wild, 2007.
"""

from pathlib import Path
from typing import NamedTuple

from jaxnets.data.dataset import DataError
from jaxnets.files import read_regular
from jaxnets.naming import quoted

_MAX_BYTES = 2**26


class Pair(NamedTuple):
    """The pictures `number` of `name` and `other_number` of `other`, in a fold; names are the same or differ."""

    name: str
    number: int
    other: str
    other_number: int
    fold: int
    line: int


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of at most 64 MiB, in its order.

    Raises:
      DataError: if it cannot be read, or a line is not of this format.
    """
    where = quoted(path)
    try:
        lines = read_regular(path, limit=_MAX_BYTES).decode().splitlines()
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is no text in UTF-8; give pairs in LFW's format.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    first = _fields(lines[0]) if lines else []
    sizes = [_number(field) for field in first]
    if len(sizes) != 2 or None in sizes or 0 in sizes or sizes[0] == 1:
        raise DataError(
            f"{where}, line 1: '{quoted(' '.join(first), 40)}' is not a number of folds, two or more, and one of pairs "
            "of either kind in a fold, as '10 300'; give pairs in the format of LFW's pairs.txt."
        )
    folds, size = (number or 0 for number in sizes)
    if len(lines) - 1 != folds * 2 * size:
        raise DataError(
            f"{where}: has {len(lines) - 1} pairs, and {folds} folds of {size} pairs of either kind would be "
            f"{folds * 2 * size}; fetch it again, or correct its first line."
        )
    return [_pair(line, index, size, where) for index, line in enumerate(lines[1:])]


def _pair(text: str, index: int, size: int, where: str) -> Pair:
    """That of line `index` + 2."""
    fold, place = divmod(index, 2 * size)
    fields, is_same = _fields(text), place < size
    if is_same and len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    numbers = [_number(fields[1]), _number(fields[3])] if len(fields) == 4 else []
    fits = len(numbers) == 2 and None not in numbers and (fields[0] == fields[2]) == is_same
    if not fits or (is_same and numbers[0] == numbers[1]):
        form = "'name n1 n2', two pictures of one identity" if is_same else "'name n1 other n2', of two identities"
        raise DataError(f"{where}, line {index + 2}: '{quoted(text.strip(), 60)}' is not {form}; correct it.")
    return Pair(fields[0], numbers[0] or 0, fields[2], numbers[1] or 0, fold, index + 2)


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split("\t")] if "\t" in line.strip() else line.split()


def _number(field: str) -> int | None:
    return int(field) if field.isascii() and field.isdecimal() and len(field) <= 9 else None
