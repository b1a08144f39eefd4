"""How rows and classes are split over the devices of a mesh axis, under `jax.shard_map`."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from kernels.margin_softmax.checks import as_int32
from kernels.margin_softmax.geometry import wide
from kernels.margin_softmax.nearest import nearest_cosines
from kernels.margin_softmax.negative_sampling import Drawn, sampled
from kernels.varying import Axes, names_of, varying_axes


def gather_rows(
    embeddings: Float[Array, "n D"], labels: Int[Array, "n"], axis_name: Axes
) -> tuple[Float[Array, "N D"], Int[Array, "N"]]:
    """The rows of all devices along the axis, in its order. Rows that all devices share already are not gathered.

    The gradient of the embeddings is summed over the devices, and each device gets the part of its own rows.

    Raises:
      ValueError: where labels are split over other devices than their embeddings.
    """
    names = names_of(axis_name)
    split, of_labels = (tuple(name for name in names if name in varying_axes(array)) for array in (embeddings, labels))
    if split != of_labels:
        raise ValueError(
            f"embeddings and labels must be split alike over {axis_name!r}: they are over {split} and {of_labels}"
        )
    if split:
        labels = lax.all_gather(labels, split, tiled=True, to="invarying")
    return _to_all(split, tuple(name for name in names if name not in split), embeddings), labels


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _to_all(split: tuple[str, ...], shared: tuple[str, ...], embeddings: Float[Array, "n D"]) -> Float[Array, "N D"]:
    """Gathers over the axes that split the rows; over the other axes every device has the same rows."""
    gathered = lax.all_gather(embeddings, split, tiled=True) if split else embeddings
    return lax.pcast(gathered, shared, to="varying") if shared else gathered


def _to_all_backward(
    split: tuple[str, ...], shared: tuple[str, ...], _: None, cotangent: Float[Array, "N D"]
) -> tuple[Float[Array, "n D"]]:
    """Sums in float32: for embeddings in bfloat16, autodiff would sum over the devices in bfloat16."""
    gradient = cotangent.astype(wide(cotangent.dtype))
    gradient = lax.psum(gradient, shared) if shared else gradient
    gradient = lax.psum_scatter(gradient, split, tiled=True) if split else gradient
    return (gradient.astype(cotangent.dtype),)


_to_all.defvjp(lambda split, shared, embeddings: (_to_all(split, shared, embeddings), None), _to_all_backward)


def own_labels(
    labels: Int[Array, "N"],
    class_weights: Float[Array, "c D"] | Float[Array, "c K D"],
    axis_name: Axes,
    num_classes: int | None = None,
    drawn: Drawn | None = None,
) -> Int[Array, "N"]:
    """Labels as indices of this device's class weights, in [0, c); −1 for rows without a class on this device.

    Args:
      drawn: the classes whose weights are given; without it, all of this device's.

    Raises:
      ValueError: where class weights are not split over the axis, or for an impossible `num_classes`.
    """
    names, num_here = names_of(axis_name), num_classes_here(class_weights, drawn)
    if not set(names) <= varying_axes(class_weights):
        raise ValueError(
            f"class_weights must be split over {axis_name!r}: by in_specs of a shard_map that checks (check_vma=True)"
        )
    most = num_here * lax.axis_size(names)
    if num_classes is not None and not 1 <= num_classes <= most:
        raise ValueError(f"num_classes must be in 1…{most}, the number of all class weights, not {num_classes}")
    labels = as_int32(labels)
    first = lax.axis_index(names).astype(jnp.int32) * num_here
    is_here = (labels >= first) & (labels < jnp.minimum(first + num_here, num_classes or most))
    own = jnp.where(is_here, labels - first, -1)
    return own if drawn is None else jnp.where(is_here, drawn.place[own], -1)


def num_classes_here(class_weights: Float[Array, "c D"] | Float[Array, "c K D"], drawn: Drawn | None) -> int:
    """The number of this device's classes; some of them are padding."""
    return class_weights.shape[0] if drawn is None else len(drawn.place)


def counted_here(num_here: int, axis_name: Axes, num_classes: int) -> Int[Array, ""]:
    """How many of this device's classes are not padding."""
    first = lax.axis_index(names_of(axis_name)).astype(jnp.int32) * num_here
    return jnp.clip(num_classes - first, 0, num_here)


def draw_classes(
    key: Array | None,
    sample: float | None,
    labels: Int[Array, "N"],
    class_weights: Float[Array, "c D"] | Float[Array, "c K D"],
    axis_name: Axes,
    num_classes: int | None = None,
) -> Drawn:
    """This device's classes that are labels of any row, and a share of the others: see `negative_sampling`.

    Args:
      key: one for all devices.
      labels: this device's, or all devices' along the axis.
    """
    names, num_here = names_of(axis_name), class_weights.shape[0]
    # Of all rows, also rows split over other axes: devices along these share the sample and sum its gradient.
    split = tuple(sorted(varying_axes(labels)))
    labels = lax.all_gather(labels, split, tiled=True, to="invarying") if split else labels
    own = own_labels(labels, class_weights, axis_name, num_classes)
    num_classes = num_classes or num_here * lax.axis_size(names)
    first = lax.axis_index(names).astype(jnp.int32) * num_here
    return sampled(key, sample, own, num_here, counted_here(num_here, axis_name, num_classes), first)


def own_rows(values: Shaped[Array, "N"], brought: Shaped[Array, "n ..."], axis_name: Axes) -> Shaped[Array, "n"]:
    """The values of this device's own rows, out of the values of all devices' rows along the axis, in its order."""
    split = tuple(name for name in names_of(axis_name) if name in varying_axes(brought))
    if not split:
        return values
    return lax.dynamic_slice_in_dim(values, lax.axis_index(split) * len(brought), len(brought))


def sharded_nearest_classes(
    embeddings: Float[Array, "n D"],
    class_weights: Float[Array, "c D"] | Float[Array, "c K D"],
    axis_name: Axes,
    num_classes: int,
    drawn: Drawn | None = None,
) -> Int[Array, "n"]:
    """`nearest_classes` of the rows that this device brings, over the classes of all, or of them the drawn ones.

    The devices tell each other the largest cosine of each row, and the class.
    """
    names, num_here = names_of(axis_name), num_classes_here(class_weights, drawn)
    split = tuple(name for name in names if name in varying_axes(embeddings))
    rows = lax.all_gather(lax.stop_gradient(embeddings), split, tiled=True, to="invarying") if split else embeddings
    first = lax.axis_index(names).astype(jnp.int32) * num_here
    counted = num_classes - first if drawn is None else drawn.num_drawn
    cosines, nearest = nearest_cosines(rows, class_weights, counted)
    nearest = nearest if drawn is None else drawn.rows[nearest]
    cosines, nearest = lax.all_gather((cosines, first + nearest), names, to="invarying")
    winner = cosines.argmax(axis=0)  # the first of equal ones
    return own_rows(jnp.take_along_axis(nearest, winner[None], axis=0)[0], embeddings, axis_name)
