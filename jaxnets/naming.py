"""What a sentence about an unknown name ends with."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """'; did you mean …?' where one of `known` is close to `name`, else '; there is …' with all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known)}"
