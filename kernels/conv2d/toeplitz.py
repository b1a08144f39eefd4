"""Convolution of few input channels as one matrix product with a Toeplitz matrix of the filters.

A product over one channel and 25 taps is too thin for a CPU. So a block of neighbouring output pixels of one row is
computed at once, from the k rows of input that it sees: the filters, shifted by a pixel for each output pixel of the
block, form a matrix [block·c_out, k·(block + k − 1)·c_in] that is the same everywhere in the image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from kernels.conv2d.dft import refuse_unless_served

_BLOCK = 8  # Output pixels computed together, at most: more would mostly multiply the zeros of the Toeplitz matrix.
_MAX_CHANNELS = 4


def conv2d(
    x: Float[Array, "..."], w: Float[Array, "k_h k_w c_in c_out"], *, stride: int, padding: int, layout: str
) -> Float[Array, "..."]:
    """As `reference`, for at most 4 input channels and the arguments that `dft` serves."""
    refuse_unless_served("toeplitz", x, w, stride)
    if w.shape[2] > _MAX_CHANNELS:
        raise NotImplementedError(f"toeplitz takes at most {_MAX_CHANNELS} input channels, not {w.shape[2]}")
    if layout == "NHWC":
        x = x.transpose(1, 2, 3, 0)
    y = _convolve(padding, x, w)
    return y.transpose(3, 0, 1, 2) if layout == "NHWC" else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(
    padding: int, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> Float[Array, "H_out W_out c_out N"]:
    return _forward(padding, x, w)[0]


def _forward(
    padding: int, x: Float[Array, "H W c_in N"], w: Float[Array, "k k c_in c_out"]
) -> tuple[Float[Array, "H_out W_out c_out N"], tuple[Array, Array]]:
    height, width = (size + 2 * padding - w.shape[0] + 1 for size in x.shape[:2])
    patches = _patches(padding, w.shape[0], x)
    matrix = _filter_matrix(w, _blocks(width)[1])
    # A batched product, though all patches have one matrix, so that the images stay the minor axis. Without the barrier
    # XLA:CPU would build the matrix anew for each patch.
    matrix = jnp.broadcast_to(lax.optimization_barrier(matrix), (patches.shape[0], *matrix.shape))
    y = jnp.matmul(matrix, patches, precision=lax.Precision.HIGHEST)
    return y.reshape(height, -1, w.shape[3], x.shape[3])[:, :width], (x, w)


def _backward(
    padding: int,
    residuals: tuple[Float[Array, "H W c_in N"], Float[Array, "k k c_in c_out"]],
    dy: Float[Array, "H_out W_out c_out N"],
) -> tuple[Float[Array, "H W c_in N"], Float[Array, "k k c_in c_out"]]:
    x, w = residuals
    height, width = dy.shape[:2]
    count, block = _blocks(width)
    patches, to_dx = jax.vjp(functools.partial(_patches, padding, w.shape[0]), x)
    matrix, to_dw = jax.vjp(functools.partial(_filter_matrix, block=block), w)
    dy = jnp.pad(dy, ((0, 0), (0, count * block - width), (0, 0), (0, 0))).reshape(height * count, -1, x.shape[3])
    d_patches = jnp.einsum("qp,bqn->bpn", matrix, dy, precision=lax.Precision.HIGHEST)
    # Fused with its products, the sum would make XLA:CPU take them in turn, several times slower.
    of_blocks = lax.optimization_barrier(jnp.einsum("bpn,bqn->bpq", patches, dy, precision=lax.Precision.HIGHEST))
    return (*to_dx(d_patches), *to_dw(of_blocks.sum(0).T))


_convolve.defvjp(_forward, _backward)


def _blocks(width: int) -> tuple[int, int]:
    """How many blocks an output row has, and of how many pixels; the last may reach beyond the row."""
    count = -(-width // _BLOCK)
    return count, -(-width // count)


def _patches(padding: int, k: int, x: Float[Array, "H W c_in N"]) -> Float[Array, "blocks taps N"]:
    """The input of each block of output pixels: [H_out·count, k·(block + k − 1)·c_in, N]."""
    height, width = (size + 2 * padding - k + 1 for size in x.shape[:2])
    count, block = _blocks(width)
    x = jnp.pad(x, ((padding, padding), (padding, padding + count * block - width), (0, 0), (0, 0)))
    by_column = jnp.stack([x[:, b * block : b * block + block + k - 1] for b in range(count)], axis=1)
    by_row = jnp.stack([by_column[r : r + height] for r in range(k)], axis=2)
    return by_row.reshape(height * count, -1, x.shape[3])


def _filter_matrix(w: Float[Array, "k k c_in c_out"], block: int) -> Float[Array, "outputs taps"]:
    """[block·c_out, k·(block + k − 1)·c_in]: row b holds the filters moved b pixels to the right."""
    k, _, _, c_out = w.shape
    shift = np.array([np.eye(k, block + k - 1, b) for b in range(block)], w.dtype)  # [block, k, block + k − 1]
    matrix = jnp.einsum("bts,rtio->borsi", shift, w, precision=lax.Precision.HIGHEST)
    return matrix.reshape(block * c_out, -1)
