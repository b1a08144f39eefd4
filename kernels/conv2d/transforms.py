"""The constant matrices that turn a convolution into products over channels, one per frequency.

Along one axis, a correlation of x (h pixels) with k taps w, after padding by p zeros on both sides,

    y[i] = Σ_t w[t] · x[i + t − p],                   0 ≤ i < h + 2p − k + 1,

is a circular convolution of any period ≥ h + p, if tap t is put at position p − t. The sum asks for positions i + t − p
in [−p, h + p). Those outside [0, h) stay outside when they wrap, and x is 0 there. A discrete Fourier transform makes a
circular convolution a product at each frequency. So

    y = Yᵀ[(K·w) ⊙ (X·x)]

with X, K and Y real and constant. At each point of ⊙ the sum over channels, for all images, is a matrix product.
The gradients have the same form: dx = Xᵀ[(K·w) ⊙ (Y·dy)], dw = Kᵀ[(X·x) ⊙ (Y·dy)].

The signals are real, so one frequency of each conjugate pair is kept. Its complex product (a + ib)(c + id) is either
Gauss's three real products (a+b)·c, a·(d−c), b·(c+d), or one real product of twice the channels: rows (a, b) times the
2×2 blocks ((c, d), (−d, c)).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# The points of a frequency are these matrices times its (re, im).
_PAIR = np.array([[1, 0], [0, 1]])
_BLOCK = np.array([[1, 0], [0, 1], [0, -1], [1, 0]])
_GAUSS_IMAGE = np.array([[1, 1], [1, 0], [0, 1]])
_GAUSS_KERNEL = np.array([[1, 0], [-1, 1], [1, 1]])
_GAUSS_OUTPUT = np.array([[1, 1], [0, 1], [-1, 0]])


@dataclasses.dataclass(frozen=True)
class Form:
    """How to compute a transform: `dense`, one matrix over all pixels, or else one axis at a time; with `gauss`, three
    real products a frequency (fewer operations), or else one of twice the channels (less to read and write)."""

    dense: bool
    gauss: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
    """A linear map from [height, width, ...] to [points, ...], and its transpose.

    `columns` is the matrix [points, height·width] itself if `rows` is None. Else the map has two stages: `rows`
    [2·pairs, height] along the height, then `columns` [pairs, points/pairs, 2·width] along the width.
    """

    shape: tuple[int, int]
    rows: Float[np.ndarray, "pairs_2 height"] | None
    columns: Float[np.ndarray, "..."]

    def apply(self, x: Float[Array, "height width *rest"]) -> Float[Array, "points *rest"]:
        rest, columns = x.shape[2:], self.columns.astype(x.dtype)
        if self.rows is None:
            return _matmul(columns, x.reshape(columns.shape[1], -1)).reshape(-1, *rest)
        halfway = _matmul(self.rows.astype(x.dtype), x.reshape(self.shape[0], -1))
        return _matmul(columns, halfway.reshape(columns.shape[0], columns.shape[2], -1)).reshape(-1, *rest)

    def apply_transpose(self, points: Float[Array, "points *rest"]) -> Float[Array, "height width *rest"]:
        rest, columns = points.shape[1:], self.columns.astype(points.dtype)
        if self.rows is None:
            return _matmul(columns.T, points.reshape(columns.shape[0], -1)).reshape(*self.shape, *rest)
        halfway = _matmul(columns.transpose(0, 2, 1), points.reshape(*columns.shape[:2], -1))
        pixels = _matmul(self.rows.T.astype(points.dtype), halfway.reshape(self.rows.shape[0], -1))
        return pixels.reshape(*self.shape, *rest)


@dataclasses.dataclass(frozen=True, eq=False)
class Transforms:
    """X, K and Y of the module's docstring."""

    form: Form
    image: Transform
    kernel: Transform
    output: Transform


@functools.lru_cache(maxsize=256)
def transforms(size: tuple[int, int], k: int, padding: int, form: Form) -> Transforms:
    """The transforms of images of `size` and k×k filters, in float64."""
    period = [length + padding for length in size]
    if not form.dense:
        period[0] += period[0] % 2  # the two real frequencies of an even period share a pair of rows
    image = [np.arange(length) for length in size]
    kernel = [padding - np.arange(k)] * 2
    output = [np.arange(length + 2 * padding - k + 1) for length in size]
    of = functools.partial(_dense if form.dense else _separable, period=period)
    rules = (_GAUSS_IMAGE, _GAUSS_KERNEL, _GAUSS_OUTPUT) if form.gauss else (_PAIR, _BLOCK, _PAIR)
    return Transforms(form, of(image, rules[0]), of(kernel, rules[1]), of(output, rules[2], inverse=True))


def _dense(positions: Sequence[np.ndarray], rule: np.ndarray, *, period: list[int], inverse: bool = False) -> Transform:
    height, width = period
    blocks = []
    for f, g in np.ndindex(height, width):
        mirror = (-f % height, -g % width)
        if (f, g) > mirror:
            continue  # the conjugate of a frequency already kept
        turns = np.add.outer(f * positions[0] / height, g * positions[1] / width).ravel()
        is_real = (f, g) == mirror
        blocks.append(_points(_wave(turns), rule, is_real) * _weight(is_real, inverse) / _count(period, inverse))
    return Transform((len(positions[0]), len(positions[1])), None, np.concatenate(blocks))


def _separable(
    positions: Sequence[np.ndarray], rule: np.ndarray, *, period: list[int], inverse: bool = False
) -> Transform:
    height, width = period
    waves = [_wave(f * positions[0] / height) for f in range(height // 2 + 1)]
    rows = np.concatenate([waves[0][:1], waves[-1][:1], *(_weight(False, inverse) * wave for wave in waves[1:-1])])

    along_width = [_wave(g * positions[1] / width) for g in range(width)]
    # Pair 0 holds two real rows, the frequencies 0 and height/2, each with its own half spectrum along the width.
    half = np.concatenate(
        [
            _points(along_width[g], rule, 2 * g % width == 0) * _weight(2 * g % width == 0, inverse)
            for g in range(width // 2 + 1)
        ]
    )
    # The other pairs are re + i·im; times cos + i·sin, (re·cos − im·sin) + i·(re·sin + im·cos).
    full = np.concatenate([_points(np.block([[c, -s], [s, c]]), rule, False) for c, s in along_width])
    points = max(2 * len(half), len(full))
    columns = np.zeros((height // 2, points, full.shape[1]))
    columns[0, : len(half), : len(positions[1])] = half
    columns[0, len(half) : 2 * len(half), len(positions[1]) :] = half
    columns[1:, : len(full)] = full
    return Transform((len(positions[0]), len(positions[1])), rows, columns / _count(period, inverse))


def _wave(turns: Float[np.ndarray, "positions"]) -> Float[np.ndarray, "2 positions"]:
    """The real and imaginary part of exp(−2πi·turns)."""
    return np.stack([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)])


def _points(parts: np.ndarray, rule: np.ndarray, is_real: bool) -> np.ndarray:
    """The rows that multiply a frequency's (re, im) rows `parts`. A real product needs one of Gauss's three."""
    if not is_real:
        return rule @ parts
    return parts[:1] if len(rule) == 3 else rule @ (parts * np.array([[1], [0]]))


def _weight(is_real: bool, inverse: bool) -> int:
    """In the sum of the output, a kept frequency counts for its conjugate too."""
    return 2 if inverse and not is_real else 1


def _count(period: list[int], inverse: bool) -> int:
    return period[0] * period[1] if inverse else 1


def _matmul(a: Float[np.ndarray, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
