"""What the tests of losses against their papers' formulas share: a problem, its cosines, central differences."""

from functools import partial

import jax
import numpy as np

N, C, D = 8, 10, 4
LABELS = np.array([0, 3, 9, 3, -1, 7, 1, 5], np.int32)
COUNTED = LABELS != -1
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def problem():
    """Lengths from 3 to 150, on both sides of MagFace's 10 and 110."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D))
    x *= (np.array([3, 20, 40, 60, 50, 80, 100, 150]) / np.linalg.norm(x, axis=1))[:, None]
    return x, rng.normal(size=(C, D))


def cosines(x, w):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T


def differences(total, *arrays, step=1e-5):
    """∂total/∂array of each, by central differences."""
    found = []
    for place, array in enumerate(arrays):
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[place][index] += sign * step
                ends.append(total(*moved))
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
        found.append(gradient)
    return found


def check(got, formula, *arrays):
    """Losses and the gradients of their weighted sum; in float32, of values of about 1 to 30."""
    losses, gradients = got
    want = formula(*arrays)
    np.testing.assert_allclose(losses, want, rtol=2e-5, atol=1e-5)
    for ours, theirs in zip(gradients, differences(lambda *a: (formula(*a) * WEIGHTS).sum(), *arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


WEIGHTS = np.linspace(0.5, 1.5, N)


def with_gradients(losses_of, over=(0, 1)):
    def total(*arguments):
        losses = losses_of(*arguments)
        return (losses * WEIGHTS.astype(np.float32)).sum(), losses

    def run(*arguments):
        gradients, losses = jax.grad(total, over, has_aux=True)(*arguments)
        return losses, gradients

    return quick(run)
