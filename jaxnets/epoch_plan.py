"""How an epoch is divided into steps, and steps into jitted calls."""

from collections.abc import Iterator
from typing import NamedTuple

import jax

from jaxnets.domains import check_count

_MOST_COUNTED = 2**31 - 1  # `Totals` counts in int32


class EpochPlan(NamedTuple):
    """How an epoch is divided: `steps` batches of `batch_size`, of which the last has `last_batch_size`."""

    batch_size: int
    steps: int
    last_batch_size: int

    @classmethod
    def of(cls, num_examples: int, batch_size: int, steps: int | None = None) -> "EpochPlan":
        """All of the examples, a short last batch kept; or the first `steps` batches of each epoch's order.

        Raises:
          ValueError: for a count below 1, or for more examples than `Totals` counts, 2³¹ − 1.
        """
        check_count("num_examples", num_examples)
        check_count("batch_size", batch_size)
        if steps is not None:
            check_count("steps", steps)
        in_all = -(-num_examples // batch_size)
        steps = in_all if steps is None else min(steps, in_all)
        plan = cls(batch_size, steps, min(batch_size, num_examples - (steps - 1) * batch_size))
        if plan.examples > _MOST_COUNTED:
            raise ValueError(
                f"an epoch counts up to {_MOST_COUNTED} examples, and not {plan.examples}: give it fewer steps"
            )
        return plan

    @property
    def examples(self) -> int:
        return (self.steps - 1) * self.batch_size + self.last_batch_size


def steps_per_call() -> int | None:
    """Steps in one jitted call: one on the CPU, None (all of an epoch's full batches) elsewhere.

    On the CPU a scan is at most a few percent faster than a Python loop over the jitted step (`python -m
    experiments.bench epoch` measures both). A loop can show progress, stop and save between steps, which take up to a
    second each. On a GPU a step can be shorter than its dispatch.
    """
    return 1 if jax.default_backend() == "cpu" else None


def epoch_calls(plan: EpochPlan, done: int, per_call: int | None) -> Iterator[tuple[int, int, int]]:
    """The (first step, batch size, steps) of each call that remains in an epoch after `done` steps.

    A full batch and the short last one never share a call. Calls lie on a fixed grid: a resumed epoch makes the same
    calls as an uninterrupted one.
    """
    full = plan.steps if plan.last_batch_size == plan.batch_size else plan.steps - 1
    stride = per_call or max(full, 1)
    for first in range(done, full, stride):
        yield first, plan.batch_size, min(stride, full - first)
    if full < plan.steps and done < plan.steps:
        yield full, plan.last_batch_size, 1
