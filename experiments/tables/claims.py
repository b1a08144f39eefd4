"""The statements of the ArcLoss study as data, and the rules by which runs answer them.

A run answers by its verdict after the last epoch (`jaxnets.separability`). A statement about two recipes is answered
by the overlap after the last epoch, the share of test points at least as near to another class's mean direction as to
their own, with an exact permutation test of the difference of means: two-sided, not adjusted for the number of tests.
The statement that a loss stops falling is answered by the training loss of a longer run.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import permutation_test

SIGNIFICANT = 0.05
STILL = 0.02  # a loss that falls by less, from one quarter of a run to the next, has stopped


class Answer(NamedTuple):
    verdict: Literal["confirmed", "refuted", "open"]
    reason: str


@dataclasses.dataclass(frozen=True)
class Ending:
    """How the study says that a variant's classes end, and the number of runs that an answer takes."""

    separated: bool
    seeds: int = 3


@dataclasses.dataclass(frozen=True)
class Plateau:
    """The study's statement that a variant's loss stops falling, and the epochs of the run that an answer takes."""

    epochs: int


ENDINGS: dict[str, Ending | Plateau] = {
    "v0": Ending(separated=False),
    "v1": Plateau(epochs=20),
    "v1_1": Ending(separated=True, seeds=1),
    "v1_1_2": Ending(separated=True),
    "v1_1_3": Ending(separated=False),
    "v1_1_4": Ending(separated=False, seeds=1),
    "v1_2": Ending(separated=False),
    "v1_2_2": Ending(separated=False),
    "v1_2_3": Ending(separated=True),
    "v1_2_4": Ending(separated=False),
    "v2": Ending(separated=False),
    "v2_1": Ending(separated=False),
}


@dataclasses.dataclass(frozen=True)
class Change:
    """The study's statement that `after` separates the classes better than `before`, or worse; runs needed of each."""

    name: str
    before: str
    after: str
    better: bool
    seeds: tuple[int, int]


CHANGES = (
    Change("learning rate 1e-3 → 1e-2", "v1_2_2", "v1_2_3", better=True, seeds=(5, 5)),
    Change("batch 256 → 512", "v1_2_3", "v1_2_4", better=False, seeds=(5, 5)),
    Change("linear head → convolution", "v1_1_2", "v1_1_3", better=False, seeds=(3, 3)),
    Change("Adam → SGD", "v1", "v1_1", better=True, seeds=(1, 1)),
    Change("nine layers → six", "v1_1", "v1_2", better=False, seeds=(1, 3)),
)


def answer_ending(ending: Ending, verdicts: Sequence[str]) -> Answer:
    """Confirmed or refuted where all runs agree.

    >>> answer_ending(Ending(separated=True), ["separated"])
    Answer(verdict='open', reason='1 run of 3')
    >>> answer_ending(Ending(separated=False), ["separated", "overlapping", "separated"])
    Answer(verdict='open', reason='2 of 3 runs end separated')
    """
    number, separated = len(verdicts), Counter(verdicts)["separated"]
    if number < ending.seeds:
        return Answer("open", f"{_runs(number)} of {ending.seeds}")
    if separated not in (0, number):
        return Answer("open", f"{separated} of {_runs(number)} end separated")
    agrees = ending.separated == (separated == number)
    found = "separated" if separated else " or ".join(sorted(set(verdicts)))
    reason = f"the only run ends {found}" if number == 1 else f"all {number} runs end {found}"
    return Answer("confirmed" if agrees else "refuted", reason)


def answer_plateau(plateau: Plateau, losses: Sequence[float]) -> Answer:
    """By the mean training loss of a run's last quarter, held against the quarter before.

    >>> answer_plateau(Plateau(epochs=4), [4.0, 2.0, 1.0, 0.99])
    Answer(verdict='confirmed', reason='the loss falls by 1.0 % from epoch 3 to epoch 4')
    """
    if len(losses) < plateau.epochs:
        return Answer("open", f"takes a run of {plateau.epochs} epochs")
    quarter = plateau.epochs // 4
    before, after = (float(np.mean(losses[-n * quarter :][:quarter])) for n in (2, 1))
    fall = 1 - after / before
    first, second = (_epochs(plateau.epochs - n * quarter, quarter) for n in (2, 1))
    direction = "falls" if fall >= 0 else "rises"
    return Answer(
        "confirmed" if fall < STILL else "refuted",
        f"the loss {direction} by {100 * abs(fall):.1f} % from {first} to {second}",
    )


def answer_change(change: Change, before: Sequence[float], after: Sequence[float]) -> Answer:
    """By the overlaps of runs before and after the change."""
    if len(before) < change.seeds[0] or len(after) < change.seeds[1]:
        have = f"{len(before)} and {_runs(len(after))}"
        return Answer("open", f"{have} of {change.seeds[0]} and {change.seeds[1]}")
    if min(len(before), len(after)) < 2:
        return Answer("open", "a test takes two runs of each or more")
    p = permutation_p(before, after)
    if p > SIGNIFICANT:
        least = smallest_p(len(before), len(after))
        limit = f"; so few runs cannot give less than {least:.2g}" if least > SIGNIFICANT else ""
        return Answer("open", f"p = {p:.2g}{limit}")
    found_better = float(np.mean(after)) < float(np.mean(before))
    less = "less" if found_better else "more"
    return Answer("confirmed" if found_better == change.better else "refuted", f"{less} overlap after it, p = {p:.2g}")


def permutation_p(first: Sequence[float | int], second: Sequence[float | int]) -> float:
    """Two-sided p of a difference of means, over every way to divide the runs into two groups of these sizes.

    >>> permutation_p([1, 2, 3], [4, 5, 6])  # one of 20 ways is as extreme on this side, doubled for both
    0.1
    """
    found = permutation_test(
        (np.asarray(first, np.float64), np.asarray(second, np.float64)),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        vectorized=True,
        n_resamples=np.inf,
    )
    return round(float(found.pvalue), 12)


def smallest_p(first: int, second: int) -> float:
    """The least p that groups of these sizes can give."""
    return min(2 / math.comb(first + second, first), 1.0)


def _epochs(done: int, number: int) -> str:
    return f"epoch {done + 1}" if number == 1 else f"epochs {done + 1}–{done + number}"


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"
