"""Whole epochs over a set of uint8 images, on the device or, where it does not fit, on the host; and evaluation."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnets.data import Split
from jaxnets.data.mapped import rows
from jaxnets.data.streaming import Share, Stream
from jaxnets.domains import check_count
from jaxnets.epoch_plan import EpochPlan as EpochPlan
from jaxnets.epoch_plan import epoch_calls as epoch_calls
from jaxnets.epoch_plan import steps_per_call as steps_per_call
from jaxnets.inference import Outputs, eval_step
from jaxnets.labels import as_labels
from jaxnets.labels import check as check_labels
from jaxnets.permutation import KeyedPermutation
from jaxnets.saved_arrays import on_host
from jaxnets.train import TrainState, train_step
from kernels.platform import jit_with, quick_compilation
from kernels.varying import Axes

EVALUATED_PIXELS = 2**20  # at once: the activations of a network are several hundred bytes a pixel

# Examples of a set on the host whose order is made at once, as an array on the device and the host, 4 bytes each.
MOST_SHUFFLED_WHOLE = 2**28


class Totals(NamedTuple):
    """Sums over the steps of an epoch so far.

    Attributes:
      loss: the sum of the losses of all rows whose label is not −1.
      correct: the number of right predictions among these rows.
      examples: the number of these rows.
      bad_step: the first step whose loss was not finite; −1 if there is none.
      taken: the number of steps so far.
      losses: the mean loss of each step; zeros for the steps to come.
    """

    loss: Float[Array, ""]
    correct: Int[Array, ""]
    examples: Int[Array, ""]
    bad_step: Int[Array, ""]
    taken: Int[Array, ""]
    losses: Float[Array, "steps"]

    @classmethod
    def zero(cls, steps: int) -> "Totals":
        """Before an epoch of so many steps."""
        correct, examples, bad_step, taken = (jnp.full((), count, jnp.int32) for count in (0, 0, -1, 0))
        return cls(jnp.zeros(()), correct, examples, bad_step, taken, jnp.zeros(steps))


@partial(jax.jit, static_argnames="num_examples")
def epoch_order(key: Array, epoch: int | Int[Array, ""], num_examples: int) -> Int[Array, "N"]:
    """The order of the examples in an epoch, counted from 0: a permutation determined by the state's key."""
    return jax.random.permutation(_key_of_order(key, epoch), num_examples)


def _key_of_order(key: Array, epoch: int | Int[Array, ""]) -> Array:
    order_key, _ = jax.random.split(key)
    return jax.random.fold_in(order_key, epoch)


def take_batch(
    state: TrainState, totals: Totals, batch: Split, axis_name: Axes | None = None
) -> tuple[TrainState, Totals]:
    """`train_step`, with its metrics added to the totals. With `axis_name`, `batch` is this device's share."""
    new_state, metrics = train_step(state, batch, axis_name)
    loss, examples = metrics["loss"].astype(totals.loss.dtype), metrics["examples"].astype(totals.loss.dtype)
    new_totals = Totals(
        totals.loss + loss * examples,
        totals.correct + jnp.round(metrics["accuracy"].astype(totals.loss.dtype) * examples).astype(jnp.int32),
        totals.examples + metrics["examples"],
        jnp.where((totals.bad_step < 0) & ~jnp.isfinite(loss), state.step, totals.bad_step),
        totals.taken + 1,
        totals.losses.at[totals.taken].set(loss.astype(totals.losses.dtype)),
    )
    return new_state, new_totals


def take_steps(
    state: TrainState,
    totals: Totals,
    split: Split,
    order: Int[Array, "N"],
    start: int | Int[Array, ""],
    *,
    batch_size: int,
    steps: int,
    axis_name: Axes | None = None,
) -> tuple[TrainState, Totals]:
    """`steps` batches of `batch_size`, from position `start` of `order`, as one scan. Pure; `jax.jit` it, or shard it.

    With `axis_name` every device holds the whole set and order, and takes its own share of each batch.
    """
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    share = batch_size // devices
    offset = 0 if axis_name is None else share * jax.lax.axis_index(axis_name)

    def one(carry: tuple[TrainState, Totals], i: Int[Array, ""]) -> tuple[tuple[TrainState, Totals], None]:
        indices = jax.lax.dynamic_slice(order, (start + i * batch_size + offset,), (share,))
        batch = Split(jnp.take(split.images, indices, axis=0), jnp.take(split.labels, indices, axis=0))
        return take_batch(*carry, batch, axis_name), None

    if steps == 1:
        return one((state, totals), jnp.zeros((), jnp.int32))[0]
    return jax.lax.scan(one, (state, totals), jnp.arange(steps, dtype=jnp.int32))[0]


@cache
def _jitted(steps: Callable[..., Any], *static: str) -> Callable[..., Any]:
    """Made at the first use: the compiler options depend on the platform."""
    return jit_with(quick_compilation(), steps, static_argnames=static, donate_argnames=("state", "totals"))


def _zero_beside(state: TrainState, steps: int) -> Totals:
    """`Totals.zero` on the devices of the state. Elsewhere, the step would be traced again for its own results."""
    return jax.jit(Totals.zero, static_argnums=0, out_shardings=state.step.sharding)(steps)


def train_epoch_by_call(
    state: TrainState,
    split: Split,
    plan: EpochPlan,
    epoch: int,
    *,
    done: int = 0,
    totals: Totals | None = None,
    take: Any = None,
    share: Share | None = None,
) -> Iterator[tuple[TrainState, Totals, int]]:
    """Yields (state, totals so far, steps done) after each jitted call of an epoch, beginning after `done` steps.

    A split on the host (NumPy) stays there; its batches go to the device one by one, in the same order and with the
    same results bit for bit; of more than 2²⁸ images, in an order of its own, of which each batch computes its part
    (`jaxnets.permutation`). The buffers of `state` are reused: use the yielded state instead. `take` replaces the
    jitted `take_steps` (see `jaxnets.parallel`). With a `share`, this process gathers its rows of each batch of a split
    on the host, and `take` replaces `take_batch`.
    """
    take = take or _jitted(take_steps, "batch_size", "steps", "axis_name")
    totals = _zero_beside(state, plan.steps) if totals is None else totals
    num_examples, on_host = split.labels.shape[0], isinstance(split.images, np.ndarray)
    calls = epoch_calls(plan, done, 1 if on_host else steps_per_call())
    sources: Iterator[tuple[Split, Any]]
    if on_host and num_examples > MOST_SHUFFLED_WHOLE:
        sources = _batches_from_host(
            split, KeyedPermutation(_key_of_order(state.key, epoch), num_examples), plan, done, share
        )
    else:
        order = epoch_order(state.key, epoch, num_examples)
        sources = _batches_from_host(split, np.asarray(order), plan, done, share) if on_host else repeat((split, order))
    for (first, batch_size, steps), (source, indices) in zip(calls, sources, strict=False):
        if share is not None and on_host:
            state, totals = take(state, totals, source)
            yield state, totals, first + steps
            continue
        start = np.int32(0 if on_host else first * plan.batch_size)
        state, totals = take(state, totals, source, indices, start, batch_size=batch_size, steps=steps)
        yield state, totals, first + steps


def _batches_from_host(
    split: Split, order: Int[np.ndarray, "N"] | KeyedPermutation, plan: EpochPlan, done: int, share: Share | None
) -> Iterator[tuple[Split, Int[Array, "B"] | None]]:
    """Batches on the device, each as a split with its own order; a thread gathers the next one in the meantime.

    With a `share` they are the batches of all processes, and have no order.
    """

    def batch(step: int) -> tuple[Split, Int[Array, "B"] | None]:
        first = step * plan.batch_size
        size = min(plan.batch_size, plan.examples - first)
        mine = share.rows(size) if share else slice(0, size)
        indices = order[first + mine.start : first + mine.stop]
        gathered = Split(rows(split.images, indices), rows(split.labels, indices))
        if share:
            return share.whole(gathered, size), None
        return jax.device_put((gathered, np.arange(len(indices), dtype=np.int32)))

    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(batch, done)
        for step in range(done + 1, plan.steps + 1):
            current = upcoming.result()
            if step < plan.steps:
                upcoming = reader.submit(batch, step)
            yield current


def train_epoch_by_stream(
    state: TrainState,
    stream: Stream,
    plan: EpochPlan,
    epoch: int,
    *,
    done: int = 0,
    totals: Totals | None = None,
    take: Any = None,
) -> Iterator[tuple[TrainState, Totals, int]]:
    """Like `train_epoch_by_call`, for pictures that are decoded when they are needed, in the order of the stream.

    `take` replaces the jitted `take_batch`.
    """
    take = take or _jitted(take_batch)
    totals = _zero_beside(state, plan.steps) if totals is None else totals
    stream.restore({**stream.state(), "position": epoch * len(stream) + done * plan.batch_size})
    for taken, batch in zip(range(done + 1, plan.steps + 1), stream, strict=False):
        state, totals = take(state, totals, batch)
        yield state, totals, taken


def train_epoch(
    state: TrainState, split: Split, batch_size: int, *, steps: int | None = None
) -> tuple[TrainState, dict[str, float]]:
    """One epoch over a set, in a new order, including a short last batch.

    Args:
      state: its buffers are reused; use the returned state instead.
      split: uint8 images and labels, on the device if they fit there (`Dataset.to_device`).
      batch_size: examples a step.
      steps: stop after so many; None takes all.

    Returns:
      The state, and the mean `loss` and margin-free `accuracy` of the batches at the time they were trained on.
    """
    plan = EpochPlan.of(split.labels.shape[0], batch_size, steps)
    *_, (state, totals, _) = train_epoch_by_call(state, split, plan, int(state.step) // plan.steps)
    return state, mean_metrics(totals)


def mean_metrics(totals: Totals) -> dict[str, float]:
    """The means over all rows whose label is not −1; NaN if there are none."""
    examples = int(totals.examples) or math.nan
    return {"loss": float(totals.loss) / examples, "accuracy": int(totals.correct) / examples}


class Evaluation(NamedTuple):
    """Host arrays over a whole set [N], and their means over the rows that are not labelled −1.

    `accuracy` is margin-free. Without such rows both means are NaN.
    """

    embeddings: Float[np.ndarray, "N D"]
    predictions: Int[np.ndarray, "N"]
    loss: float
    accuracy: float


_eval_step = jax.jit(eval_step)


def evaluation_batch(image_shape: Sequence[int]) -> int:
    """The number of images [H, W, …] to evaluate at once: up to 1,000, as many as have 2²⁰ pixels, but at least one."""
    return min(1000, max(1, EVALUATED_PIXELS // max(1, math.prod(image_shape[:2]))))


def evaluate(state: TrainState, split: Split, batch_size: int | None = None) -> Evaluation:
    """Applies the network in inference to a whole set, in batches of one size, so that it is compiled once.

    Args:
      batch_size: images at once, on which the memory depends and no result; None chooses (see `evaluation_batch`).

    Raises:
      ValueError: for missing labels, a label that is neither a class of the head nor −1, or an empty set.
    """
    batch_size = evaluation_batch(split.images.shape[1:]) if batch_size is None else batch_size
    check_count("batch_size", batch_size)
    labels = np.asarray(as_labels(split.labels))
    if not len(labels):
        raise ValueError("there is nothing to evaluate: the set has no images")
    batch_size = min(batch_size, len(labels))
    outputs: list[Outputs] = []
    for start in range(0, len(labels), batch_size):
        indices = np.minimum(np.arange(start, start + batch_size, dtype=np.int32), len(labels) - 1)
        outputs.append(_eval_step(state, Split(rows(split.images, indices), labels[indices])))
        jax.block_until_ready(outputs[-2:-1])  # otherwise the activations of all batches are in memory at once
    embeddings, losses, predictions = (
        np.concatenate([on_host(batch[field]) for batch in outputs])[: len(labels)] for field in range(3)
    )
    check_labels(labels, state.head.count_classes(embeddings.shape[1]))
    counts = labels != -1
    if not counts.any():
        return Evaluation(embeddings, predictions, math.nan, math.nan)
    loss = float(losses[counts].mean(dtype=np.float64))
    return Evaluation(embeddings, predictions, loss, float(np.mean((predictions == labels)[counts])))
