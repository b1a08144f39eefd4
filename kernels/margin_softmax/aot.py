"""Compiles the head for an H200, or for TPUs, on a machine without them, and reports the memory that it would take:

    python -m kernels.margin_softmax.aot
    python -m kernels.margin_softmax.aot --platform tpu

This is the complete compilation, with ptxas or the TPU's compiler, but without the device or its driver. GPUs need JAX
0.11 or later with CUDA's plugin and compiler, `jax[cuda12]`; TPUs (v5e and v6e) need libtpu, `jax[tpu]`.

A table lists the program's temporary memory, beyond its arguments and results, for N = 4096 and D = 512 unless the row
says otherwise. For GPUs it also lists the kernels' bytes of spilled registers, registers a thread, and bytes of shared
memory a block; these are blank where a row has no kernel of its own.

The exit code is 1 if a kernel spills or needs more of the chip's memory than there is, or if temporaries exceed 250 MB
(the logits alone would take 16.4 GB); longer rows, and sub-centres on TPUs, may take more. It is 2 if a compiler is
missing. On GPUs float32, hard negatives and sub-centres may spill 64 bytes: sixteen registers, saved once for the
128 × 512 × 128 products of a tile.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from kernels.margin_softmax import streamed
from kernels.margin_softmax.chunked import Chunked
from kernels.margin_softmax.pallas_gpu import OLDEST_JAX, PallasGpu
from kernels.margin_softmax.pallas_tpu import PallasTpu
from kernels.margin_softmax.reference import HardNegatives
from kernels.platform import portable
from kernels.varying import vary_alike

TEMPORARIES = 250e6  # bytes
SHARED_MEMORY = 232_448  # bytes, the most a block may have
SPILLED_BY_VARIANTS = 64  # bytes
SPECS = PartitionSpec("rows"), PartitionSpec(), PartitionSpec("rows")  # of embeddings, class weights, labels
TPUS = ("v5e:2x2", "v6e:2x2")

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H200"
"""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """The program to compile: the loss, and with `gradients` the gradients of embeddings and class weights."""

    streams: streamed.Streams
    num_classes: int
    dtype: Any
    gradients: bool = True
    num_centers: int = 0
    is_hard: bool = False
    length: int = 512
    num_devices: int = 1  # that share the rows

    def __str__(self) -> str:
        variant = f" K={self.num_centers}" * bool(self.num_centers) + " hard" * self.is_hard
        variant += f" D={self.length}" * (self.length != 512) + f" on {self.num_devices}" * (self.num_devices > 1)
        what = "value and gradients" if self.gradients else "value"
        name = f"{type(self.streams).__name__} {jnp.dtype(self.dtype).name} C={self.num_classes:.0e}{variant}"
        return f"{name:<36} {what:<19}"

    @property
    def spilled_at_most(self) -> int:
        is_variant = self.num_centers or self.is_hard or self.dtype == jnp.float32
        return SPILLED_BY_VARIANTS if is_variant else 0

    @property
    def allowed(self) -> float:
        """The most bytes of temporaries; they grow with D, as the gradient of a row does."""
        return TEMPORARIES * max(self.length / 512, 1)

    @property
    def weight_bytes(self) -> int:
        return self.num_classes * max(self.num_centers, 1) * self.length * int(jnp.dtype(self.dtype).itemsize)

    def program(self) -> tuple[Any, list[jax.ShapeDtypeStruct]]:
        hard = HardNegatives(0.3, threshold=_margin) if self.is_hard else None

        def total(x: Array, w: Array, labels: Array) -> Array:
            options: dict[str, Any] = {"margin": _margin, "scale": 64.0, "hard_negatives": hard}
            return streamed.margin_softmax(self.streams, x, w, labels, **options).sum()

        def over_devices(x: Array, w: Array, labels: Array) -> Array:
            x, w = vary_alike(x, w)
            return jax.lax.psum(total(x, w, labels), "rows")

        shapes = (4096, self.length), (self.num_classes, *[self.num_centers] * bool(self.num_centers), self.length)
        arguments = [jax.ShapeDtypeStruct(shape, self.dtype) for shape in shapes]
        labels = jax.ShapeDtypeStruct((4096,), jnp.int32)
        program: Any = total
        if self.num_devices > 1:
            program = jax.shard_map(over_devices, in_specs=SPECS, out_specs=PartitionSpec())
        return jax.value_and_grad(program, (0, 1)) if self.gradients else program, [*arguments, labels]


VARIANTS: list[tuple[int, dict[str, Any]]] = [
    (100_000, {"is_hard": True}),
    (30_000, {"num_centers": 3}),
    (30_000, {"num_centers": 3, "is_hard": True}),
    (10_007, {"length": 100}),
    (100_000, {"length": 1024}),
    (10_007, {"length": 4096}),
    (10_007, {"length": 4096, "num_centers": 3, "is_hard": True}),
]

GPU_CASES = [
    *[
        Compilation(streams, num_classes, dtype, gradients)
        for streams in (PallasGpu(), Chunked())
        for dtype in (jnp.bfloat16, jnp.float32)
        for num_classes in (10_000, 100_000, 1_000_000, 10_000_000)
        for gradients in (False, True)
    ],
    *[
        Compilation(PallasGpu(), num_classes, dtype, **variant)
        for dtype in (jnp.bfloat16, jnp.float32)
        for num_classes, variant in VARIANTS
    ],
    Compilation(PallasGpu(), 100_000, jnp.bfloat16, num_devices=2),
]

TPU_CASES = [
    *[
        Compilation(PallasTpu(), num_classes, dtype)
        for dtype in (jnp.bfloat16, jnp.float32)
        for num_classes in (10_000, 100_000, 1_000_000)
    ],
    Compilation(PallasTpu(), 1_000_000, jnp.bfloat16, gradients=False),
    Compilation(PallasTpu(), 100_000, jnp.bfloat16, is_hard=True),
    Compilation(PallasTpu(), 30_000, jnp.bfloat16, num_centers=3),
    Compilation(PallasTpu(), 30_000, jnp.float32, num_centers=3, is_hard=True),
    Compilation(PallasTpu(), 10_007, jnp.bfloat16, length=100),
    Compilation(PallasTpu(), 10_007, jnp.float32, length=4096),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="kernels.margin_softmax.aot", description="Compiles the head ahead of time.")
    parser.add_argument("--platform", choices=("gpu", "tpu"), default="gpu")
    complaints = {"gpu": _for_gpu, "tpu": _for_tpu}[parser.parse_args().platform]()
    sys.exit("\n".join(complaints) or 0)


def _for_tpu() -> list[str]:
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # otherwise libtpu asks a cloud service which TPU this is
    try:
        tpus = {name: topologies.get_topology_desc(name, platform="tpu").devices for name in TPUS}
    except Exception as error:  # its kind depends on the missing part
        _refuse("a TPU", f"libtpu is not here, see jax[tpu] ({str(error).splitlines()[0]})")
    complaints = []
    print(f"{'':<64} {'temporary':>10}")
    for name, devices in tpus.items():
        for case in TPU_CASES:
            try:
                temporaries = _compiled(case, devices, "tpu").memory_analysis().temp_size_in_bytes
            except Exception as error:  # of many kinds, among them too much VMEM
                complaints.append(f"{name} {case}: does not compile: {str(error).splitlines()[0]}")
                continue
            print(f"{name} {case} {temporaries / 1e6:>7.1f} MB", flush=True)
            # With sub-centres XLA changes the layout of the gradient of w and back, to add the targets' part.
            allowed = case.allowed + 3 * case.weight_bytes * bool(case.num_centers)
            if temporaries > allowed:
                complaints.append(f"{name} {case}: temporaries over {allowed / 1e6:.0f} MB")
    return complaints


def _for_gpu() -> list[str]:
    if jax.__version_info__ < OLDEST_JAX:
        _refuse("a GPU", f"it takes JAX {'.'.join(map(str, OLDEST_JAX))} or later, not {jax.__version__}")
    jax.config.update("jax_platforms", "cpu")
    # Mosaic GPU reads these when it compiles, and prints ptxas' report of a kernel and the call that launches it.
    os.environ.update(MOSAIC_GPU_DUMP_PTXAS="1", MOSAIC_GPU_DUMP_HOST_LLVM="1")
    try:
        topology = topologies.get_topology_desc(platform="cuda", topology="1x1x2", target_config=H200)
    except Exception as error:  # its kind depends on the missing part
        _refuse("a GPU", f"CUDA's plugin and compiler are not here, see jax[cuda12] ({str(error).splitlines()[0]})")
    complaints = ["ptxas reports nothing of the kernels, or in a form that is not known here"]
    print(f"{'':<56} {'temporary':>10} {'spilled':>8} {'registers':>10} {'shared':>8}")
    for case in GPU_CASES:
        temporaries, kernels = _compile_for_gpu(case, topology)
        spilled, registers, shared = kernels if kernels else ("", "", "")
        if kernels:
            complaints = [c for c in complaints if not c.startswith("ptxas")]
        print(f"{case} {temporaries / 1e6:>7.1f} MB {spilled:>8} {registers:>10} {shared:>8}", flush=True)
        if temporaries > case.allowed:
            complaints.append(f"{case}: temporaries over {case.allowed / 1e6:.0f} MB")
        if kernels and kernels[0] > case.spilled_at_most:
            complaints.append(f"{case}: spills over {case.spilled_at_most} bytes")
        if kernels and kernels[2] > SHARED_MEMORY:
            complaints.append(f"{case}: shared memory over {SHARED_MEMORY} bytes")
    return complaints


def _refuse(target: str, reason: str) -> NoReturn:
    print(f"kernels.margin_softmax.aot cannot compile for {target}: {reason}", file=sys.stderr)
    sys.exit(2)


def _margin(cos_theta: Array, sin_theta: Array) -> Array:
    """cos(θ + 0.5), as an example: the kernels do not depend on the margin."""
    return 0.8776 * cos_theta - 0.4794 * sin_theta


def _compiled(case: Compilation, devices: Sequence[Any], platform: str) -> Any:
    program, shapes = case.program()
    mesh = Mesh(np.array(devices[: case.num_devices]), ("rows",))
    arguments = [
        jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, SPECS, strict=True)
    ]
    with portable():  # otherwise `chunked` would suit the CPU of this machine
        traced = jax.jit(program).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).compile()


def _compile_for_gpu(case: Compilation, topology: Any) -> tuple[int, tuple[int, int, int] | None]:
    """Temporary memory in bytes, and the kernels' largest spill, number of registers and shared memory."""
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh  # missing in JAX before 0.11

    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    mesh = AbstractMesh((case.num_devices,), ("rows",), axis_types=(AxisType.Auto,), abstract_device=device)
    with use_abstract_mesh(mesh), _said() as said:
        memory = _compiled(case, topology.devices, "cuda").memory_analysis()
    text = said[0]
    spilled = [int(bytes_) for bytes_ in re.findall(r"(\d+) bytes spill stores", text)]
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", text)]
    launch = (
        r"call void @mosaic_gpu_build_kernel_spec\(ptr %\d+(?:, i32 \d+){9}, i32 (\d+),"  # after grid, cluster, block
    )
    shared = [int(bytes_) for bytes_ in re.findall(launch, text)]
    return memory.temp_size_in_bytes, (max(spilled), max(registers), max(shared)) if shared else None


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """Captures all that is written to the terminal meanwhile, by libraries too."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        kept = [os.dup(stream) for stream in (1, 2)]
        try:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            yield said
        finally:
            for stream, duplicate in zip((1, 2), kept, strict=True):
                os.dup2(duplicate, stream)
                os.close(duplicate)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


if __name__ == "__main__":
    main()
