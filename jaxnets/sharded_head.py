"""A head whose classes are split over the devices of a mesh, each of which has the weights of its own alone."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxnets.adacos import AdaCos
from jaxnets.domains import check
from jaxnets.heads import CLASS_WEIGHTS, MarginHead, drawn_margin
from jaxnets.inputs import Labels
from jaxnets.labels import as_labels
from jaxnets.losses import sharded_margin_softmax_loss
from jaxnets.margins import AdaptiveMargin, DrawnMargin, Statistics, sharded_update
from kernels.margin_softmax import Axes, Drawn, draw_classes, gather_rows, own_rows, sharded_nearest_classes
from kernels.varying import names_of, varying_axes


@dataclasses.dataclass(frozen=True)
class ShardedMarginHead(MarginHead):
    """`MarginHead` over the devices of a mesh: for more classes than one of them has room for.

    Nothing else changes for the user, who gives whole batches to the usual functions:

        mesh = jax.make_mesh((2, 4), ("data", "class"))
        head = ShardedMarginHead(1_000_000, ArcFace(), 64.0, mesh=mesh)
        state = create_train_state(key, create("resnet18", 512), head, images, sgd(0.1, 0.9), sgd(0.1, 0.9))
        step = jax.jit(train_step, donate_argnums=0)
        state, metrics = step(state, batch)
        checkpoint.save(directory, 1, state, keep=1, num_classes=head.num_classes)

    The rows of a batch are split over all axes of the mesh if they divide by its devices; otherwise each device
    computes all of them. Classes are split over `axis`, and class weights and the optimiser's arrays of them are never
    whole on a device. The step equals `MarginHead`'s on one device within rounding.

    The number of classes need not divide: the last rows of the class weights are zeros then, which no loss depends on.
    Initial class weights depend on the key and on the class's number alone, so that the devices change nothing.
    (`MarginHead` has other ones.)

    Attributes:
      mesh: of Auto or Explicit axes, over all devices of the training.
      axis: the mesh axis that classes are split over; or several, the first one changing slowest, as in PartitionSpec.
      sample: the share of the classes, in (0, 1], that rows are compared with in training (see
        `jaxnets.sharded_margin_softmax_loss`); None for all. A step's sample depends on the state's key, the step and
        the classes' numbers alone. The optimiser is given the drawn class weights alone, with its arrays of them. The
        others stay as they are, without momentum or decay, as in Partial FC: a step costs what the sample costs. The
        accuracy is over the drawn classes too.

    Raises:
      ValueError: as MarginHead; for an axis that the mesh does not have, a `sample` outside its domain, or AdaCos for
        the scale, which needs the classes whole.
    """

    mesh: Mesh = dataclasses.field(kw_only=True)
    axis: Axes = dataclasses.field(default="class", kw_only=True)
    sample: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in names_of(self.axis) if name not in self.mesh.axis_names]
        if unknown:
            raise ValueError(f"the mesh has the axes {self.mesh.axis_names}, and none named {unknown[0]!r}")
        if isinstance(self.scale, AdaCos):
            raise ValueError("AdaCos needs the classes whole: give a ShardedMarginHead a number as its scale")
        if self.sample is not None:
            check("sample", self.sample, "(0, 1]")
        # The functions below say how arrays are split; within them the compiler decides.
        object.__setattr__(self, "mesh", Mesh(self.mesh.devices, self.mesh.axis_names))

    @property
    def num_rows(self) -> int:
        """The number of classes with padding."""
        devices = math.prod(self.mesh.shape[name] for name in names_of(self.axis))
        return -(-self.num_classes // devices) * devices

    @property
    def draws(self) -> bool:
        return True

    def shardings(self, tree: Any) -> Any:
        """Where the arrays of a state lie: class weights' arrays split over `axis`, others on every device."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.specs(tree))

    def specs(self, tree: Any, drawn: Drawn | None = None) -> Any:
        """The same, as PartitionSpecs; with `drawn`, for the result of `drawn_of`."""
        num_rows = self.num_rows if drawn is None else len(drawn.rows)

        def spec(path: Any, leaf: Any) -> P:
            is_split = str(getattr(path[-1], "key", "")) == CLASS_WEIGHTS and jnp.shape(leaf)[:1] == (num_rows,)
            return P(self.axis) if is_split else P()

        return jax.tree_util.tree_map_with_path(spec, tree)

    def draw(self, key: Array, params: dict[str, Array], labels: Labels) -> Drawn | None:
        """The classes that a batch is compared with, split over `axis`; None for all. The key is `loss`'s too."""
        if self.sample is None:
            return None

        def of_device(key: Array, params: dict[str, Array], labels: Int[Array, "N"]) -> Drawn:
            return draw_classes(key, self.sample, labels, self._own(params), self.axis, self.num_classes)

        where = P(), self.specs(params), P()
        drawn: Drawn = jax.shard_map(of_device, mesh=self.mesh, in_specs=where, out_specs=P(self.axis))(
            key, params, as_labels(labels)
        )
        return drawn

    def drawn_of(self, tree: Any, drawn: Drawn | None) -> Any:
        """A state's arrays, in which the class weights' arrays are cut down to the drawn classes."""
        return tree if drawn is None else self._by_device(Drawn.of, drawn, self.specs(tree), tree)

    def with_drawn(self, tree: Any, part: Any, drawn: Drawn | None) -> Any:
        """`part`, as `drawn_of` cut it out of `tree`, with the other classes' rows of `tree`."""
        return part if drawn is None else self._by_device(Drawn.put, drawn, self.specs(tree), tree, part)

    def check_optimizer(self, opt_state: optax.OptState) -> None:
        """Refuses one that adds up gradients over several steps, each of which draws other classes."""
        nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, optax.MultiStepsState))
        if self.sample is not None and any(isinstance(node, optax.MultiStepsState) for node in nodes):
            raise ValueError(
                "no sample with optax.MultiSteps: it adds up gradients over steps, and each draws other classes"
            )

    def _by_device(self, function: Callable[..., Array], drawn: Drawn, specs: Any, *trees: Any) -> Any:
        """`function` of split arrays; the last tree's other arrays."""
        split = P(self.axis)
        mapped = jax.shard_map(function, mesh=self.mesh, in_specs=split, out_specs=split)
        return jax.tree.map(
            lambda spec, *leaves: mapped(drawn, *leaves) if spec == split else leaves[-1], specs, *trees
        )

    def over_devices(
        self,
        function: Callable[..., Any],
        state: Any,
        batch: Any,
        out: Callable[[Any], Any],
        drawn: Drawn | None = None,
    ) -> Any:
        """`function(state, batch, axis_name)` by each device, of its share of the rows; then axis_name has all axes.

        Args:
          function: calls this head's methods.
          out: gives the PartitionSpecs of the results, given the rows' spec.
          drawn: given to `function` as well, of a state that has been cut down to it.
        """
        rows = {len(leaf) for leaf in jax.tree.leaves(batch)}
        axis_name = self.mesh.axis_names if all(count % self.mesh.size == 0 for count in rows) else None
        split = P() if axis_name is None else P(axis_name)
        mapped = jax.shard_map(
            partial(function, axis_name=axis_name),
            mesh=self.mesh,
            in_specs=(self.specs(state, drawn), split, *(() if drawn is None else (P(self.axis),))),
            out_specs=out(split),
        )
        return mapped(state, batch, *(() if drawn is None else (drawn,)))

    def init(self, key: Array, num_outputs: int) -> dict[str, Array]:
        """Class weights [rows, D], or [rows, K, D], from the standard normal; padding is 0."""
        shape = (num_outputs,) if self.num_subcenters == 1 else (self.num_subcenters, num_outputs)
        here = self.num_rows // math.prod(self.mesh.shape[name] for name in names_of(self.axis))

        def of_class(key: Array, number: Int[Array, ""]) -> Float[Array, "..."]:
            drawn = jax.random.normal(jax.random.fold_in(key, number), shape)
            return jnp.where(number < self.num_classes, drawn, 0)

        def of_device(key: Array) -> Float[Array, "c ..."]:
            first = jax.lax.axis_index(self.axis).astype(jnp.int32) * here
            return jax.vmap(partial(of_class, key))(first + jnp.arange(here, dtype=jnp.int32))

        return {CLASS_WEIGHTS: jax.shard_map(of_device, mesh=self.mesh, in_specs=P(), out_specs=P(self.axis))(key)}

    def update_stats(
        self,
        stats: Statistics,
        params: dict[str, Array],
        embeddings: Float[Array, "N D"],
        labels: Labels,
        axis_name: Axes | None = None,
        drawn: Drawn | None = None,
    ) -> Statistics:
        if not isinstance(self.margin, AdaptiveMargin):
            return stats
        w, labels = self._own(params), as_labels(labels)
        return sharded_update(self.margin, stats, embeddings, w, labels, self.axis, self.num_classes, drawn)

    def loss(
        self,
        stats: Statistics,
        params: dict[str, Array],
        embeddings: Float[Array, "N D"],
        labels: Labels,
        key: Array | None = None,
        axis_name: Axes | None = None,
        drawn: Drawn | None = None,
    ) -> Float[Array, "N"]:
        """The losses of the rows that this device brings, over all classes or the drawn ones; the key draws margins."""
        w, labels, margin = self._own(params), as_labels(labels), self.margin
        assert not isinstance(self.scale, AdaCos)  # was refused
        if isinstance(margin, DrawnMargin):
            margin = drawn_margin(margin, key, len(labels), axis_name)
            margin = jax.tree.map(lambda numbers: self._of_all_rows(numbers, labels), margin)
        losses = sharded_margin_softmax_loss(
            embeddings,
            w,
            labels,
            axis_name=self.axis,
            margin=margin,
            scale=self.scale,
            statistics=stats,
            margin_grad=self.margin_grad,
            min_norm=self.min_norm,
            num_classes=self.num_classes,
            drawn=drawn,
        )
        return own_rows(losses, labels, self.axis)

    def predict(
        self, params: dict[str, Array], embeddings: Float[Array, "N D"], drawn: Drawn | None = None
    ) -> Int[Array, "N"]:
        w = self._own(params)
        return sharded_nearest_classes(embeddings, w, self.axis, self.num_classes, drawn)

    def _of_all_rows(self, numbers: Any, labels: Int[Array, "n"]) -> Any:
        """Numbers of each row that devices along `axis` bring; a single one stays as it is."""
        return gather_rows(numbers[:, None], labels, self.axis)[0][:, 0] if jnp.ndim(numbers) else numbers

    def _own(self, params: dict[str, Array]) -> Float[Array, "c D"] | Float[Array, "c K D"]:
        w = params[CLASS_WEIGHTS]
        if not set(names_of(self.axis)) <= varying_axes(w):
            raise ValueError("only train_step and eval_step call a ShardedMarginHead: they split arrays over the mesh")
        return w
