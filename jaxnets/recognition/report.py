"""Results: frozen, printed as a table, and as JSON can hold them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnets.recognition.intervals import Interval

ERRORS = 10  # a rate at which fewer would be made is not stated


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """The common part of all results.

    Attributes:
      intervals: of each figure, by its name after the dot ("eer", "tar_at_far[0.001]"), the ends of its confidence
        interval; empty without a bootstrap.
      not_stated: why a figure is None, by its name.
      confidence: of the intervals; None without a bootstrap.
    """

    intervals: Mapping[str, Interval]
    not_stated: Mapping[str, str]
    confidence: float | None

    def title(self) -> str:
        """The sentence above the table."""
        raise NotImplementedError

    def figures(self) -> dict[str, float | None]:
        """Every figure by its name, as `intervals` has it."""
        flat: dict[str, float | None] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("intervals", "not_stated", "confidence"):
                continue
            if isinstance(value, Mapping):
                flat |= {f"{field.name}[{key:g}]": item for key, item in value.items()}
            elif isinstance(value, float):
                flat[field.name] = value
        return flat

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON: None where one is not stated or not finite; without whole curves."""
        counts = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), int)
        }
        return {
            **counts,
            **{name: plain(value) for name, value in self.figures().items()},
            "intervals": {name: [plain(end) for end in ends] for name, ends in self.intervals.items()},
            "confidence": self.confidence,
            "not_stated": dict(self.not_stated),
        }

    def __str__(self) -> str:
        rows = [("", "", "" if self.confidence is None else f"{self.confidence:.0%} interval")]
        for name, value in self.figures().items():
            low, high = self.intervals.get(name, (math.nan, math.nan))
            ends = "" if math.isnan(low) else f"{low:.4f} – {high:.4f}"
            rows.append((name, "–" if value is None else f"{value:.4f}", self.not_stated.get(name, ends)))
        return "\n".join([self.title(), *aligned(rows)])


def why_unstated(rate: float, number: int, of: str) -> str:
    """Why a figure at this rate of errors among `number` trials, which are named `of`, is not stated; or nothing."""
    if rate * number >= ERRORS * (1 - 1e-9):
        return ""
    return f"not stated: of {number:,} {of} it is {rate * number:.3g}, and {ERRORS} are needed"


def checked_rates(name: str, rates: Sequence[float]) -> None:
    """Raises a ValueError where one of these rates of errors is not between 0 and 1."""
    for rate in rates:
        if not 0 < rate < 1:
            raise ValueError(f"{name} must lie between 0 and 1, without either; got {rate}")


def aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Lines of names, values and notes, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for name, value, note in rows]


def plain(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
