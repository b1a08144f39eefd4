"""Programs as JAX's own serialised StableHLO, which later versions of JAX read too."""

from collections.abc import Callable

import jax
import jax.export
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float, UInt8

from jaxnets.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(program: Program) -> bytes:
    """The program for CPUs, NVIDIA's GPUs and TPUs, and for any number of images, as `load_stablehlo` takes it.

    It is what `jax.export` serialises: with versions of its own, and readable for at least six months of later JAX.
    Products are in full float32 everywhere, without TF32 and bfloat16, so that GPUs and TPUs give what a CPU gives.
    """
    traced = program.trace()
    function = jaxpr_as_fun(traced)
    images = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in traced.in_avals]
    exported = jax.export.export(jax.jit(lambda images: function(images)[0]), platforms=PLATFORMS)(*images)
    return bytes(exported.serialize())


def load_stablehlo(program: bytes) -> Callable[[UInt8[Array, "N H W C"]], Float[Array, "N ..."]]:
    """What `export_stablehlo` gave, as a jitted function of images, uint8 [N, H, W, C] in 0 … 255.

    Raises:
      ValueError: for bytes that are no such program.
      jax.errors.JaxRuntimeError: when it is called, for a program of a newer JAX than this one can read.
    """
    try:
        exported = jax.export.deserialize(bytearray(program))
    except Exception as error:  # whatever the reader of its format makes of other bytes
        raise ValueError("these bytes are no program that JAX exported, or it is damaged") from error
    return jax.jit(exported.call)
