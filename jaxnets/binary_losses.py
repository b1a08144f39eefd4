"""SphereFace2 and UniFace: a binary decision for each pair of an embedding and a class, with one threshold for all.

The loss of a row is the sum of one term for its own class and one for each other class; nothing is normalised over
classes. So it splits over classes as it is: they are taken in chunks, forward and backward, and no array is N×C. Under
`jax.shard_map` each device takes its own classes.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxnets.domains import Number, check, check_count, check_margin
from jaxnets.heads import CLASS_WEIGHTS, init_class_weights
from jaxnets.inputs import ClassWeights, Labels, Vectors
from jaxnets.labels import as_labels, marked
from jaxnets.losses import limit_gradient
from jaxnets.margins.value import Numbers, like, value
from kernels.margin_softmax import Axes, gather_rows, nearest_classes, own_labels
from kernels.margin_softmax.checks import MarginGrad
from kernels.margin_softmax.choice import chunk_size
from kernels.margin_softmax.geometry import cosines, directions, target_cos_sin
from kernels.precision import wide
from kernels.varying import varying_like


@runtime_checkable
class Form(Protocol):
    """The terms of such a loss, as functions of cosines and the bias b; a class of your own may have them too."""

    def positive(self, cos_theta: Array, bias: Array) -> Array:
        """Of a row's own class."""

    def negative(self, cos_theta: Array, bias: Array) -> Array:
        """Of each other class."""

    def initial_bias(self, num_classes: int) -> float:
        """b before training."""


@value
class SphereFace2:
    """w·(λ/r·log(1 + exp(−r·(g(cos θ_y) − m) − b)) + (1 − λ)/r·Σ_{j≠y} log(1 + exp(r·(g(cos θ_j) + m) + b))).

    g(z) = 2·((z + 1)/2)^t − 1 spreads the cosines; λ weighs one positive against many negatives (equation 5).

    Wen et al., SphereFace2: Binary Classification is All You Need for Deep Face Recognition, 2022, arXiv:2108.01513,
    with the additive margin on both sides (SphereFace2-C); the paper has w = 1. The numbers are those of the authors'
    code, which also takes dg/dz as 1 in the gradient: `margin_grad="straight_through"` does so too.

    Attributes:
      m: the margin between a decision and the threshold, in units of g.
      scale: r.
      balance: λ, the share of the positive terms.
      t: the exponent of g; 1 for g(z) = z.
      weight: w. Divided by r, the paper's loss has gradients so small that SGD at a softmax loss's rate hardly learns.
      margin_grad: "exact" or "straight_through".
    """

    m: Numbers = 0.4
    scale: Numbers = 40.0
    balance: Numbers = 0.7
    t: Numbers = 3.0
    weight: Numbers = 50.0
    margin_grad: MarginGrad = "exact"

    def __post_init__(self) -> None:
        check("SphereFace2's m", self.m, "[0, 2]")
        check("SphereFace2's scale", self.scale, "(0, ∞)")
        check("SphereFace2's balance", self.balance, "(0, 1)")
        check("SphereFace2's t", self.t, "[1, ∞)")
        check("SphereFace2's weight", self.weight, "(0, ∞)")
        if self.margin_grad not in ("exact", "straight_through"):
            raise ValueError(f"margin_grad is exact or straight_through, not {self.margin_grad!r}")

    def positive(self, cos_theta: Array, bias: Array) -> Array:
        m, r, balance = (like(number, cos_theta) for number in (self.m, self.scale, self.balance))
        return like(self.weight, cos_theta) * balance / r * jax.nn.softplus(-r * (self._spread(cos_theta) - m) - bias)

    def negative(self, cos_theta: Array, bias: Array) -> Array:
        m, r, balance = (like(number, cos_theta) for number in (self.m, self.scale, self.balance))
        return (
            like(self.weight, cos_theta) * (1 - balance) / r * jax.nn.softplus(r * (self._spread(cos_theta) + m) + bias)
        )

    def initial_bias(self, num_classes: int) -> float:
        """The b at which the loss has no slope in b while all cosines are 0, as at the start in many dimensions.

        It solves λ·σ(−p − b) = (1 − λ)·(C − 1)·σ(n + b) with p = r·(g(0) − m), n = r·(g(0) + m). Numbers must be known.

        Raises:
          ValueError: for fewer than two classes.
        """
        check_count("num_classes", num_classes, least=2)
        m, r, balance, t = (float(number) for number in (self.m, self.scale, self.balance, self.t))
        ratio, product = balance / ((1 - balance) * (num_classes - 1)), math.exp(-2 * r * m)
        root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * product)
        # Of the two forms of a quadratic equation's root the one that does not subtract like numbers.
        total = root + (1 - ratio) if ratio <= 1 else 4 * ratio * product / (root - (1 - ratio))
        return math.log(2 * ratio) - r * (2 * 0.5**t - 1 + m) - math.log(total)

    def _spread(self, cos_theta: Array) -> Array:
        # A rounded cosine may be below −1, of which there is no power.
        spread = 2 * jnp.maximum((cos_theta + 1) / 2, 0) ** like(self.t, cos_theta) - 1
        if self.margin_grad == "exact":
            return spread
        return cos_theta + lax.stop_gradient(spread - cos_theta)


@value
class UniFace:
    """log(1 + exp(−s·(cos θ_y − m) + b)) + λ·Σ_{j≠y} log(1 + exp(s·cos θ_j − b)): b/s is one threshold for all classes.

    Zhou et al., UniFace: Unified Cross-Entropy Loss for Deep Face Recognition, 2023 (ICCV), L_uce-mb-λ; with m = 0 and
    λ = 1 it is their L_uce.

    Attributes:
      m: the margin of the positive cosine.
      scale: s.
      balance: λ, the weight of the negative terms.
    """

    m: Numbers = 0.4
    scale: Numbers = 64.0
    balance: Numbers = 1.0

    def __post_init__(self) -> None:
        check("UniFace's m", self.m, "[0, 2]")
        check("UniFace's scale", self.scale, "(0, ∞)")
        check("UniFace's balance", self.balance, "(0, ∞)")

    def positive(self, cos_theta: Array, bias: Array) -> Array:
        m, scale = like(self.m, cos_theta), like(self.scale, cos_theta)
        return jax.nn.softplus(-scale * (cos_theta - m) + bias)

    def negative(self, cos_theta: Array, bias: Array) -> Array:
        return like(self.balance, cos_theta) * jax.nn.softplus(like(self.scale, cos_theta) * cos_theta - bias)

    def initial_bias(self, num_classes: int) -> float:
        """log(10·C), as in the authors' code."""
        return math.log(10 * num_classes)


def binary_margin_loss(
    embeddings: Vectors,
    class_weights: ClassWeights,
    labels: Labels,
    *,
    bias: Number,
    form: Form,
    axis_name: Axes | None = None,
    num_classes: int | None = None,
    chunk: int | None = None,
) -> Float[Array, "M"]:
    """The loss of each row; float32, or float64 if an input is. Differentiable in embeddings, class weights and bias.

    Args:
      embeddings: [N, D], of any length.
      class_weights: [C, D], of any length, or [C, K, D], where the nearest of K sub-centres counts.
      labels: [N], integers in [0, C); −1 marks a row without a class: loss 0, no gradient. Any other gives NaN.
      bias: b, a number that is learned with the class weights; `form.initial_bias(C)` is its start.
      form: `SphereFace2(…)` or `UniFace(…)`.
      axis_name: in a `jax.shard_map`, the mesh axis, or axes, that classes are split over. Each device then brings its
        share of rows and of class weights and gets the losses of all rows, as in `sharded_margin_softmax_loss`.
      num_classes: C, if with `axis_name` there are more class weights than classes; the last rows are ignored then.
      chunk: how many classes are taken at once; None chooses.

    Raises:
      ValueError: with `axis_name`, as `sharded_margin_softmax_loss`.
    """
    x, w, given = jnp.asarray(embeddings), jnp.asarray(class_weights), as_labels(labels)
    own, total = given, w.shape[0]
    here: Array | int = total
    if axis_name is not None:
        x, given = gather_rows(x, given, axis_name)
        own = own_labels(given, w, axis_name, num_classes)
        total = num_classes or len(w) * lax.axis_size(axis_name)
        here = jnp.minimum(len(w), total - lax.axis_index(axis_name) * len(w))
    dtype = wide(x.dtype, w.dtype)
    x = directions(jnp.where((given != -1)[:, None], x, 0).astype(dtype))
    b = varying_like(jnp.asarray(bias, dtype), x)
    is_own = own >= 0
    cos_theta, _ = target_cos_sin(x, directions(jnp.take(w, own, axis=0, mode="clip").astype(dtype)), _rows(own))
    sums = jnp.where(is_own, form.positive(cos_theta, b), 0) + _negatives(x, w, own, here, b, form, chunk)
    losses = sums if axis_name is None else lax.psum(sums, axis_name)
    return marked(losses, given, total)


def _rows(labels: Int[Array, "N"]) -> Int[Array, "N"]:
    return jnp.arange(len(labels), dtype=labels.dtype)


def _negatives(
    x: Float[Array, "N D"],
    w: Float[Array, "C D"] | Float[Array, "C K D"],
    own: Int[Array, "N"],
    num_here: Int[Array, ""] | int,
    bias: Float[Array, ""],
    form: Form,
    chunk: int | None,
) -> Float[Array, "N"]:
    """The sum of the terms of all classes but the rows' own; cosines of a chunk are made again for the gradient."""
    count = w.shape[0]
    size = min(chunk or chunk_size(len(x), w.shape if w.ndim == 3 else (count, 1, w.shape[1])), count)
    padded = jnp.pad(w, ((0, -count % size), *((0, 0),) * (w.ndim - 1)))

    @jax.checkpoint
    def add(so_far: Array, given: tuple[Array, Array]) -> tuple[Array, None]:
        some, first = given
        classes = first + jnp.arange(size, dtype=jnp.int32)
        is_other = (classes[None, :] != own[:, None]) & (classes < num_here)[None, :]
        terms = form.negative(cosines(x, directions(some.astype(x.dtype))), bias)
        return so_far + jnp.where(is_other, terms, 0).sum(axis=1), None

    firsts = varying_like(jnp.arange(0, len(padded), size, dtype=jnp.int32), x)
    chunks = padded.reshape(-1, size, *w.shape[1:])
    total, _ = lax.scan(add, varying_like(jnp.zeros(len(x), x.dtype), x), (chunks, firsts))
    return total


@dataclasses.dataclass(frozen=True)
class BinaryHead:
    """A weight vector for each class and one bias, with `binary_margin_loss`. It predicts the class nearest in angle.

    Attributes:
      num_classes: C, two or more.
      form: `SphereFace2(…)` or `UniFace(…)`.
      num_subcenters: vectors for each class, of which the nearest counts.
      min_norm: limits the gradient of shorter embeddings (see `jaxnets.losses.limit_gradient`).
    """

    num_classes: int
    form: Form
    num_subcenters: int = 1
    min_norm: Number = 0.0

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes, least=2)
        check_margin("form", self.form, "UniFace()")
        check_count("num_subcenters", self.num_subcenters)
        check("min_norm", self.min_norm, "[0, ∞)")

    def count_classes(self, num_outputs: int) -> int:
        return self.num_classes

    def init(self, key: Array, num_outputs: int) -> dict[str, Array]:
        """Class weights, as `MarginHead`'s, and the form's bias."""
        return {
            CLASS_WEIGHTS: init_class_weights(key, self.num_classes, self.num_subcenters, num_outputs),
            "bias": jnp.full((), self.form.initial_bias(self.num_classes), jnp.float32),
        }

    def init_stats(self) -> dict[str, Array]:
        return {}

    def update_stats(
        self,
        stats: dict[str, Array],
        params: dict[str, Array],
        embeddings: Float[Array, "N D"],
        labels: Labels,
        axis_name: Axes | None = None,
    ) -> dict[str, Array]:
        return stats

    def loss(
        self, stats: dict[str, Array], params: dict[str, Array], embeddings: Float[Array, "N D"], labels: Labels
    ) -> Float[Array, "N"]:
        x = limit_gradient(embeddings, self.min_norm)
        return binary_margin_loss(x, params[CLASS_WEIGHTS], labels, bias=params["bias"], form=self.form)

    def predict(self, params: dict[str, Array], embeddings: Float[Array, "N D"]) -> Int[Array, "N"]:
        return nearest_classes(embeddings, params[CLASS_WEIGHTS])
