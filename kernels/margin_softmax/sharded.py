"""The loss over classes of which each device of a mesh axis has a share, under `jax.shard_map`.

Every device has all rows (see `shares`). It sums exp(s·f(c)) over its own classes, by an implementation of `streamed`,
and computes the targets of the rows whose class it has. One all-reduce of vectors [N] combines the sums and the
targets. The gradient of the combined L needs no communication: with respect to a device's own L_p it is exp(L_p − L).

A step of the loss and both gradients communicates: an all-gather of embeddings [n, D] in their own dtype and of labels
[n], the all-reduce of [2, N], and the reduce-scatter of the embeddings' gradient [N, D] in float32. Hard negatives add
an all-reduce of [N]. Class weights that are shared along another axis add an all-reduce of their gradient, [c, D], or
of the drawn rows of it.

`experiments/results/README.md` estimates the time and the memory of a step, up to 1e8 classes on 512 devices. Products
and talk both grow with the embeddings that a device brings, so without a sample the products dominate, except across
nodes with few classes. With a sample, only the drawn class weights take part in a step, and
`jaxnets.train_step` gives the optimiser these alone. There is room for a class of each row: at 1e6 classes on 64
devices and more this is room for all of a device's classes.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels.margin_softmax import pallas_gpu, pallas_tpu
from kernels.margin_softmax.checks import (
    Implementation,
    Like,
    MarginGrad,
    checked,
    of_target,
    selected,
    with_constant_t,
)
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.negative_sampling import Drawn
from kernels.margin_softmax.reference import HardNegatives, OfTarget
from kernels.margin_softmax.shares import counted_here, num_classes_here, own_labels
from kernels.margin_softmax.streamed import Hard, Rows, Streams, known_scale, others_and_psi, thresholds
from kernels.varying import Axes, names_of, vary_alike, varying_like

# A sum of numbers from e^−80 to e^80 does not vanish in float32, nor overflow over up to 6000 devices.
WIDTH = 160.0


def sharded_margin_softmax(
    embeddings: Like,
    class_weights: Like,
    labels: Like,
    *,
    axis_name: Axes,
    margin: OfTarget,
    scale: Like,
    margin_grad: MarginGrad | str = "exact",
    hard_negatives: HardNegatives | None = None,
    num_classes: int | None = None,
    drawn: Drawn | None = None,
    implementation: Implementation | str | None = None,
) -> Float[Array, "N"]:
    """`margin_softmax` with all rows on every device of the axis, and c of the C class weights on each.

    All devices get the same loss. Inputs may vary over other mesh axes too: class weights that do not are shared over
    these axes, and their gradient is summed.

    It takes one all-reduce of [2, N] numbers: the sums and the targets. Where sums of exp(s·f(c)) may differ by more
    than a factor of e^160, from about s = 70 on, they are grouped by size, in [3, N] numbers or more. A traced scale
    takes another all-reduce of [N], for the largest sum. Hard negatives take one before, as the target decides which
    classes are hard. They need t in [−1, 1], the range of a mean of cosines.

    Args:
      axis_name: of the mesh axis that class weights are split over; or several, the first one changing slowest.
      num_classes: C, where the last devices have class weights beyond it, that do not count and get no gradient,
        whatever they hold.
      drawn: by `draw_classes`, the classes that count; `class_weights` are then `drawn.of` this device's.
      (others): as in `margin_softmax`; implementation "reference" is for one device.

    Raises:
      NotImplementedError: from a named implementation that cannot serve these arguments.
      ValueError: as `margin_softmax`; where class weights are not split over the axis; for a `num_classes` that leaves
        no class or is more than there are.
    """
    x, w, labels, scale = checked(embeddings, class_weights, labels, scale, margin_grad, implementation)
    own = own_labels(labels, w, axis_name, num_classes, drawn)
    names, num_here = names_of(axis_name), num_classes_here(w, drawn)
    num_devices = lax.axis_size(names)
    num_classes = num_classes or num_here * num_devices
    counts = (labels >= 0) & (labels < num_classes)
    counted = counted_here(num_here, names, num_classes) if drawn is None else drawn.num_drawn
    has_padding = num_classes < num_devices * num_here or drawn is not None
    x, w, own = vary_alike(jnp.where(counts[:, None], x, 0), w, own)
    if has_padding and implementation not in (None, "chunked"):
        raise NotImplementedError(
            f"{implementation} takes no padding, and {num_classes} classes leave some on {num_devices} devices"
            if drawn is None
            else f"{implementation} takes no sample: the number of its classes varies, and the rest is padding"
        )

    is_here = own >= 0
    rows = Rows(own, None, varying_like(counted, x) if has_padding else None)
    hard_negatives = with_constant_t(hard_negatives, x, w)
    if hard_negatives is not None:
        threshold = thresholds(x, w, own, hard_negatives)
        threshold = lax.psum(jnp.where(is_here, threshold, 0), names)
        threshold, t, _ = vary_alike(threshold, hard_negatives.t, x)
        rows = rows._replace(hard=Hard(threshold, t))

    streams = _STREAMS[implementation or "chunked"]()
    margin = of_target(margin, margin_grad, is_here)
    others, psi = others_and_psi(streams, x, w, rows, margin=margin, scale=scale)
    others, target = _meet(
        names, _shifts(known_scale(scale), hard_negatives is not None, num_classes), others, scale * psi
    )
    return selected(jax.nn.softplus(others - target), labels, num_classes)


def _refuse_reference() -> Streams:
    raise NotImplementedError("margin_softmax's implementation reference is of one device: it has all classes at once")


_STREAMS: dict[str, Callable[[], Streams]] = {
    "reference": _refuse_reference,
    "chunked": Chunked,
    "pallas_gpu": pallas_gpu.on_this_device,
    "pallas_tpu": pallas_tpu.on_this_device,
}


def _shifts(scale: float | None, is_hard: bool, num_classes: int) -> tuple[float, ...] | None:
    """The middles of intervals of width `WIDTH` that together cover every possible L; None for a traced scale."""
    if scale is None:
        return None
    lowest, highest = -scale, scale * (2 if is_hard else 1) + math.log(num_classes)
    count = max(math.ceil((highest - lowest) / WIDTH), 1)
    middle = (lowest + highest) / 2
    return tuple(middle + WIDTH * (i - (count - 1) / 2) for i in range(count))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _meet(
    names: tuple[str, ...], shifts: tuple[float, ...] | None, others: Float[Array, "N"], target: Float[Array, "N"]
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """L = log Σ_p exp(L_p) over the devices, and the sum of the targets, which are 0 on all devices but one.

    Subtracting the maximum over the devices keeps any sum in range, but takes another all-reduce. Where `shifts` are
    known, each exp(L_p) is added to the sum of its own interval instead. There are few intervals, mostly one.
    """
    if shifts is None:
        largest = lax.pmax(others, names)
        largest = jnp.where(largest == -jnp.inf, 0, largest)
        total, target = lax.psum(jnp.stack([jnp.exp(others - varying_like(largest, others)), target]), names)
        return largest + jnp.log(total), target
    sums = []
    for i, shift in enumerate(shifts):
        is_below = others < shift - WIDTH / 2 if i > 0 else False
        is_above = others >= shift + WIDTH / 2 if i + 1 < len(shifts) else False
        sums.append(jnp.exp(jnp.where(is_below | is_above, -jnp.inf, others - shift)))  # of NaN it is NaN
    *sums, target = lax.psum(jnp.stack([*sums, target]), names)
    logs = jnp.stack([jnp.log(total) + shift for shift, total in zip(shifts, sums, strict=True)])
    return jax.nn.logsumexp(logs, axis=0), target


def _meet_forward(
    names: tuple[str, ...], shifts: tuple[float, ...] | None, others: Array, target: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    whole, target = _meet(names, shifts, others, target)
    return (whole, target), (others, whole)


def _meet_backward(
    names: tuple[str, ...],
    shifts: tuple[float, ...] | None,
    residuals: tuple[Array, Array],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array]:
    others, whole = residuals
    share = jnp.exp(others - varying_like(jnp.where(whole == -jnp.inf, 0, whole), others))
    of_whole, of_target = (varying_like(cotangent, others) for cotangent in cotangents)
    return of_whole * share, of_target


_meet.defvjp(_meet_forward, _meet_backward)
