"""Times every implementation on layers of this project's networks: `python -m kernels.conv2d.measure`.

The thresholds of `kernels.conv2d.choice` come from this table. Implementations take turns within a row, so that other
load on the machine meets them all. Each number is the median time in ms of value and both gradients, layout HWCN.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
from jaxtyping import Array

from kernels.conv2d.api import Implementation, conv2d
from kernels.conv2d.dft import convolve
from kernels.conv2d.transforms import Form, transforms

# size, k, padding, c_in, c_out, batch
LAYERS = [
    *[(28, 5, 2, 1, 32, 256), (28, 5, 2, 32, 32, 256), (14, 5, 2, 32, 64, 256), (14, 5, 2, 64, 64, 256)],
    *[(7, 5, 2, 64, 128, 256), (7, 5, 2, 128, 128, 256), (7, 5, 2, 512, 512, 256), (3, 5, 2, 512, 256, 256)],
    *[(26, 3, 0, 16, 32, 256), (7, 3, 0, 128, 256, 256), (15, 3, 2, 128, 256, 256)],
    *[(224, 5, 2, 3, 32, 16), (112, 5, 2, 32, 32, 16), (56, 5, 2, 32, 64, 16)],
]
FORMS = {
    "dense": Form(dense=True, gauss=False),
    "dense gauss": Form(dense=True, gauss=True),
    "separable": Form(dense=False, gauss=False),
    "separable gauss": Form(dense=False, gauss=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    print(f"jax {jax.__version__}, {jax.default_backend()}, median of {repeats}, ms\n")
    for layer in LAYERS:
        times = _times(layer, repeats)
        best = min(times, key=lambda name: times[name])
        print(layer, *(f"{'*' if name == best else ''}{name} {1e3 * t:.1f}" for name, t in times.items()), sep="  ")


def _times(layer: tuple[int, ...], repeats: int) -> dict[str, float]:
    size, k, padding, c_in, c_out, batch = layer
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (size, size, c_in, batch))
    w = jax.random.normal(keys[1], (k, k, c_in, c_out))

    def value_and_gradients(implementation: Implementation, x: Array, w: Array) -> tuple[Array, ...]:
        y, vjp = jax.vjp(lambda x, w: conv2d(x, w, padding=padding, layout="HWCN", implementation=implementation), x, w)
        return y, *vjp(y)

    compiled: dict[str, Callable[..., object]] = {}
    names: tuple[Implementation, ...] = ("xla", "toeplitz", "tiled", "squares")
    for name in names:
        if name == "xla" and c_in > 64:
            continue  # seconds a step
        try:
            step = jax.jit(value_and_gradients, static_argnums=0).lower(name, x, w).compile()
        except NotImplementedError:
            continue
        compiled[name] = step
    for name_of_form, form in FORMS.items():
        if form.dense and size > 15:
            continue  # quadratic in the pixels: hopeless, and slow to find out

        def with_form(x: Array, w: Array, form: Form = form) -> tuple[Array, ...]:
            maps = transforms((size, size), k, padding, form)
            y, vjp = jax.vjp(lambda x, w: convolve(maps, x, w), x, w)
            return y, *vjp(y)

        compiled[name_of_form] = jax.jit(with_form).lower(x, w).compile()

    for run in compiled.values():
        jax.block_until_ready(run(x, w))
    times: dict[str, list[float]] = {label: [] for label in compiled}
    for _ in range(repeats):
        for label, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(x, w))
            times[label].append(time.perf_counter() - start)
    return {label: statistics.median(of_label) for label, of_label in times.items()}


if __name__ == "__main__":
    main()
