"""Programs as JAX's own serialised StableHLO, which later versions of JAX read too."""

import hashlib
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxnets.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")
# At the end of the file, where `jax.export.deserialize` does not look: the SHA-256 of all bytes before it.
DIGEST_MARK = b"\njaxnets-sha256:"


def export_stablehlo(program: Program) -> bytes:
    """The program for CPUs, NVIDIA's GPUs and TPUs, and for any number of images, as `load_stablehlo` takes it.

    `jax.export` serialises it, with versions of its own: later JAX reads it for at least six months. A digest follows,
    which `jax.export.deserialize` ignores. Products are in full float32 everywhere, without TF32 and bfloat16, so that
    GPUs and TPUs give the same results as a CPU.
    """
    content = bytes(program.lowered(PLATFORMS, weights_within=True).serialize())
    return content + DIGEST_MARK + hashlib.sha256(content).digest()


def load_stablehlo(program: bytes) -> Callable[[UInt8[Array, "N H W C"]], Float[Array, "N ..."]]:
    """The result of `export_stablehlo` as a jitted function of images, uint8 [N, H, W, C] in 0 … 255, for any N ≥ 0.

    Raises:
      ValueError: for bytes of another origin, and for damaged ones. XLA sees neither: some would end the process.
      jax.errors.JaxRuntimeError: when the function is called, for a program of a newer JAX than this one can read.
    """
    content, mark, digest = program.rpartition(DIGEST_MARK)
    if not mark:
        raise ValueError("these bytes are no program that export_stablehlo wrote, or their end is missing")
    if digest != hashlib.sha256(content).digest():
        raise ValueError("this program is damaged: its bytes do not match its digest; export it again")
    exported = jax.export.deserialize(bytearray(content))

    @jax.jit
    def run(images: Array) -> Array:  # which `exported` checks
        if images.shape[0]:
            return exported.call(images)
        one = jax.eval_shape(exported.call, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))
        return jnp.zeros((0, *one.shape[1:]), one.dtype)  # `jax.export` takes its symbol N for 1 or more

    return run
