"""The state and the step of training.

A step is `(state, batch) -> (state, metrics)`: pure, so that it can be jitted, mapped over seeds, and, with
`axis_name`, run by every device of `jax.pmap` or `jax.shard_map` on its share of the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxnets.data import Split
from jaxnets.domains import check
from jaxnets.explicit_axes import between_auto_axes, specs_of
from jaxnets.heads import Head, MarginHead
from jaxnets.labels import as_labels, count_of
from jaxnets.optim import by_group
from jaxnets.sharded_head import ShardedMarginHead
from kernels.margin_softmax import Drawn
from kernels.platform import jit_with
from kernels.varying import Axes

Params: TypeAlias = dict[str, Any]
Augment: TypeAlias = Callable[[Array, UInt8[Array, "N H W C"]], UInt8[Array, "N H W C"]]  # of keys [N] and images


class TrainState(struct.PyTreeNode):
    """Everything that training changes, as one pytree; the rest is static metadata.

    Attributes:
      params: {"net": …, "head": …}, two groups, each with its own optimiser.
      batch_stats: the running statistics of the network's BatchNorm layers.
      head_stats: the statistics of AdaFace or CurricularFace; empty for other heads.
      averages: {"params", "batch_stats"}, averaged over the steps, for evaluation; empty without `averaging`.
      augment: changes the images of each training step, with a key for each image.
      averaging: the share of the averages that a step keeps (see `averaged`); None for no averages.
      freeze_batch_stats: training normalises by the running statistics and does not update them, like PyTorch's
        BatchNorm layers in `eval()`. (`optax.set_to_zero()` freezes parameters only.)
    """

    params: Params
    batch_stats: Any  # Params, as the next ones; Orbax puts leaves of its own in the place of empty dictionaries
    head_stats: Any
    opt_state: optax.OptState
    step: Any  # Int[Array, ""]; and a key. As leaves of a pytree they can also be stacked or abstract.
    key: Any
    averages: Any
    model: nn.Module = struct.field(pytree_node=False)
    head: Head = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    augment: Augment | None = struct.field(pytree_node=False, default=None)
    averaging: float | None = struct.field(pytree_node=False, default=None)
    freeze_batch_stats: bool = struct.field(pytree_node=False, default=False)

    def for_inference(self) -> tuple[Params, Params]:
        """The parameters and running statistics to evaluate: the averages, where there are any."""
        if self.averaging is None:
            return self.params, self.batch_stats
        return self.averages["params"], self.averages["batch_stats"]


def create_train_state(
    key: Array,
    model: nn.Module,
    head: Head,
    images: Any,
    net_optimizer: optax.GradientTransformation,
    head_optimizer: optax.GradientTransformation,
    augment: Augment | None = None,
    averaging: float | None = None,
    freeze_batch_stats: bool = False,
) -> TrainState:
    """A fresh state. `images` [N, H, W, C] gives the shape alone; the same key gives the same state, bit for bit.

    It can be traced: under `jax.eval_shape`, `jax.jit`, and `jax.vmap` over keys. `optax.set_to_zero()` freezes
    weights, but not BatchNorm's statistics: `freeze_batch_stats=True` does, also by `state.replace`.

    Raises:
      ValueError: for an `averaging` outside of [0, 1), and for an optimiser that a sample of the classes does not suit.
    """
    if averaging is not None:
        check("averaging, the share of an average that a step keeps,", averaging, "[0, 1)")
    optimizer = by_group(net_optimizer, head_optimizer)

    def init(key: Array) -> tuple[Params, Params, Params, optax.OptState, Array, Array]:
        net_key, head_key, state_key = jax.random.split(key, 3)
        example = jnp.zeros((1, *images.shape[1:]), jnp.float32)
        outputs, variables = model.init_with_output(net_key, example, train=False)
        params = {"net": variables["params"], "head": head.init(head_key, outputs.shape[1])}
        step = jnp.zeros((), jnp.int32)
        return params, variables.get("batch_stats", {}), head.init_stats(), optimizer.init(params), state_key, step

    # Optimising the random numbers' code would take seconds on a CPU, and it runs once.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    placed = {"out_shardings": head.shardings(jax.eval_shape(init, key))} if isinstance(head, ShardedMarginHead) else {}
    params, batch_stats, head_stats, opt_state, state_key, step = jit_with(quick, init, **placed)(key)
    if isinstance(head, ShardedMarginHead):
        head.check_optimizer(opt_state)
    # Copies: a step may be given the state's buffers to reuse, and no buffer twice.
    averages = {} if averaging is None else jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    return TrainState(
        params=params,
        batch_stats=batch_stats,
        head_stats=head_stats,
        opt_state=opt_state,
        step=step,
        key=state_key,
        averages=averages,
        model=model,
        head=head,
        optimizer=optimizer,
        augment=augment,
        averaging=averaging,
        freeze_batch_stats=freeze_batch_stats,
    )


def as_floats(images: Array, params: Params) -> Float[Array, "N H W C"]:
    """Pixels 0…255 -> [0, 1], in the dtype of the parameters: PyTorch's `ToTensor`."""
    dtype = jax.tree.leaves(params)[0].dtype
    return images.astype(dtype) / 255


def train_step(
    state: TrainState, batch: Split, axis_name: Axes | None = None
) -> tuple[TrainState, dict[str, Float[Array, ""] | Int[Array, ""]]]:
    """One optimiser step on a batch of uint8 images.

    Metrics are the mean `loss` and the margin-free `accuracy` over the rows whose label is not −1, and the number of
    these rows, `examples`. A batch without such rows has a loss of 0. A label that is neither a class nor −1 makes the
    loss NaN.

    With `axis_name`, `batch` is this device's share: BatchNorm's and the head's statistics, gradients and metrics are
    averaged over that mapped axis, so that the step equals the one on the whole batch. Shares must be of equal size.

    Alternatively, under `jax.jit`, the batch may be split over a mesh of Auto or Explicit axes. The new state is split
    as the old one.
    """

    def out() -> Any:
        return state.head.specs(state) if isinstance(state.head, ShardedMarginHead) else specs_of(state), P()

    if axis_name is None:
        return between_auto_axes(_train_step, state, batch, out=out)
    return _train_step(state, batch, axis_name)


def _train_step(state: TrainState, batch: Split, axis_name: Axes | None = None) -> tuple[TrainState, dict[str, Array]]:
    if isinstance(state.head, ShardedMarginHead):
        if axis_name is not None:
            raise ValueError("a ShardedMarginHead splits the batch itself: jit train_step without an axis_name")
        return _train_step_over_classes(state, state.head, batch)
    found = _gradients(state, batch, axis_name=axis_name)
    updates, opt_state = state.optimizer.update(found.params, state.opt_state, state.params)
    return _after(state, optax.apply_updates(state.params, updates), opt_state, found), found.metrics


def _train_step_over_classes(
    state: TrainState, head: ShardedMarginHead, batch: Split
) -> tuple[TrainState, dict[str, Array]]:
    """The step of classes that are split over devices; of a sample of these, if the head draws one."""
    held = state.params, state.opt_state
    drawn = head.draw(_step_keys(state).head, state.params["head"], batch.labels)
    params, opt_state = head.drawn_of(held, drawn)
    fixed, specs = state.replace(params=params, opt_state=(), averages={}), head.specs(params, drawn)
    found = head.over_devices(_gradients, fixed, batch, lambda _: Gradients(specs, P(), P(), P()), drawn)
    # The optimiser's part stays outside, where arrays are whole to it: any optimiser gives its usual result.
    updates, opt_state = state.optimizer.update(found.params, opt_state, params)
    params, opt_state = head.with_drawn(held, (optax.apply_updates(params, updates), opt_state), drawn)
    new = _after(state, params, opt_state, found)
    placed: TrainState = jax.lax.with_sharding_constraint(new, head.shardings(new))
    return placed, found.metrics


def _after(state: TrainState, params: Params, opt_state: optax.OptState, found: "Gradients") -> TrainState:
    new: TrainState = state.replace(
        params=params,
        averages=averaged(state, {"params": params, "batch_stats": found.batch_stats}),
        batch_stats=found.batch_stats,
        head_stats=found.head_stats,
        opt_state=opt_state,
        step=state.step + 1,
    )
    return new


class Gradients(NamedTuple):
    """What a step finds out about a batch, before the optimiser's part; or how each of these is split."""

    params: Any
    batch_stats: Any
    head_stats: Any
    metrics: Any


class StepKeys(NamedTuple):
    """A step's keys: for dropout, for the augmentation, and for the head's random draws."""

    dropout: Array
    augment: Array
    head: Array


def _step_keys(state: TrainState) -> StepKeys:
    _, step_key = jax.random.split(state.key)
    step_key = jax.random.fold_in(step_key, state.step)
    dropout_key, augment_key = jax.random.split(step_key)
    return StepKeys(dropout_key, augment_key, jax.random.fold_in(step_key, 2))


def _gradients(state: TrainState, batch: Split, drawn: Drawn | None = None, axis_name: Axes | None = None) -> Gradients:
    dropout_key, augment_key, head_key = _step_keys(state)
    is_split = isinstance(state.head, ShardedMarginHead)
    draws = isinstance(state.head, MarginHead) and state.head.draws
    drawing = {"key": head_key, "axis_name": axis_name} if draws else {}
    among: dict[str, Any] = {} if drawn is None else {"drawn": drawn}
    params, images, labels = state.params, jnp.asarray(batch.images), as_labels(batch.labels)
    if state.augment is not None:
        images = state.augment(_keys_of_share(augment_key, images.shape[0], axis_name), images)
    examples, devices = count_of(labels), 1
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        # So that gradients are this device's own; shard_map sums split classes' gradients over other axes.
        own = {"net": params["net"]} if is_split else params
        params = params | jax.lax.pcast(own, axis_name, to="varying")
        examples, devices = jax.lax.psum(examples, axis_name), jax.lax.axis_size(axis_name)

    def mean_of_share(values: Float[Array, "N"]) -> Float[Array, ""]:
        """A number whose mean over the devices is the mean over the whole batch."""
        # XLA compiles division by a constant as this product: if all rows count, the bits equal `mean`'s.
        return values.sum() * (devices / jnp.maximum(examples, 1).astype(values.dtype))

    def mean_loss(params: Params) -> tuple[Array, tuple[Array, Params, Params]]:
        outputs, updated = state.model.apply(
            {"params": params["net"], "batch_stats": state.batch_stats},
            as_floats(images, params),
            train=True,
            axis_name=axis_name,
            mutable=[] if state.freeze_batch_stats else ["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        head_stats = state.head.update_stats(state.head_stats, params["head"], outputs, labels, axis_name, **among)
        losses = state.head.loss(head_stats, params["head"], outputs, labels, **drawing, **among)
        return mean_of_share(losses), (outputs, updated.get("batch_stats", state.batch_stats), head_stats)

    (loss, (outputs, batch_stats, head_stats)), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
    is_correct = (state.head.predict(params["head"], outputs, **among) == labels).astype(loss.dtype)
    metrics = {"loss": loss, "accuracy": mean_of_share(is_correct)}
    if axis_name is not None:
        averaged_ones = {"net": grads["net"]} if is_split else grads
        averaged_ones, batch_stats, metrics = jax.lax.pmean((averaged_ones, batch_stats, metrics), axis_name)
        of_classes = {"head": jax.tree.map(lambda grad: grad / devices, grads["head"])} if is_split else {}
        grads = {**averaged_ones, **of_classes}
    return Gradients(grads, batch_stats, head_stats, {**metrics, "examples": examples})


def averaged(state: TrainState, new: Params) -> Params:
    """The averages after a step that results in `new`: a ← d·a + (1 − d)·new, d = min(averaging, (1 + t) / (10 + t)).

    t counts the steps: the averages soon forget the first ones, which lie far from the end of training.
    """
    if state.averaging is None:
        return {}
    t = state.step.astype(jnp.float32)
    keeps = jnp.minimum(state.averaging, (1 + t) / (10 + t))
    # `optax.incremental_update` rounds otherwise, and refuses parameters of another dtype under strict promotion.
    return jax.tree.map(lambda a, n: a + (1 - keeps).astype(a.dtype) * (n - a), state.averages, new)


def _keys_of_share(key: Array, share: int, axis_name: Axes | None) -> Array:
    """A key for each image of this device's share, the same that the image has in the whole batch."""
    if axis_name is None:
        return jax.random.split(key, share)
    keys = jax.random.split(key, share * jax.lax.axis_size(axis_name))
    return jax.lax.dynamic_slice_in_dim(keys, share * jax.lax.axis_index(axis_name), share)


@jax.jit
def is_finite(state: TrainState) -> Bool[Array, ""]:
    """Whether every parameter and running statistic is a finite number."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.head_stats))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
