"""How messages name things that come from outside: escaped, cut, and with the nearest known name beside them."""

import difflib
from collections.abc import Sequence

LONGEST = 300  # characters of a foreign string within a message
LISTED = 30  # names within a message


def quoted(text: object, longest: int = LONGEST) -> str:
    r"""`text` as a message may show it: on one line, escaped as by `repr` but without quotation marks, and cut.

    Control characters, line ends, marks that turn the direction of writing and undecodable bytes of a file name become
    escapes (`\n`, `\x1b`, `\u202e`, `\udcff`). A result of more than `longest` characters ends in "…" instead.

    >>> quoted("fc.weight")
    'fc.weight'
    >>> print(quoted("two\nlines"))
    two\nlines
    """
    # Each character becomes one or more, so characters beyond `longest` are never needed.
    pieces = [c if c.isprintable() else repr(c)[1:-1] for c in str(text)[: longest + 1]]
    if sum(map(len, pieces)) <= longest:
        return "".join(pieces)
    room, kept = longest - 1, 0
    while kept < len(pieces) and len(pieces[kept]) <= room:
        room -= len(pieces[kept])
        kept += 1
    return "".join(pieces[:kept]) + "…"


def nearest(name: str, known: Sequence[str]) -> str:
    """'; did you mean …?' where one of `known` is close to `name`, else '; there is …' with up to 30 of them."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"; there is {', '.join(known[:LISTED])}{more}"
