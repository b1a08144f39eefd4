"""Checkpoints that are written while training goes on."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run.saving import Saver


def test_training_goes_on_while_a_state_is_written():
    """Also when it reuses the buffers; and the next save waits for the one before it."""
    may_write, written = threading.Event(), []

    def slow(tree):
        may_write.wait(30)
        written.append(tree)

    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Saver() as saver:
        state = jnp.arange(4.0)
        saver.save(slow, {"w": state, "key": jax.random.key(3)})
        state = step(state)
        assert not written
        may_write.set()
        saver.save(slow, {"w": state, "key": jax.random.key(4)})
        assert len(written) >= 1
    np.testing.assert_array_equal([tree["w"] for tree in written], [np.arange(4.0), np.arange(4.0) + 1])
    np.testing.assert_array_equal(written[0]["key"], jax.random.key_data(jax.random.key(3)))


def fail(tree):
    raise OSError("no space")


def test_the_error_of_a_write_is_not_lost():
    with Saver() as saver:
        saver.save(fail, {})
        with pytest.raises(OSError, match="no space"):
            saver.save(fail, {})
        saver.save(fail, {})
        with pytest.raises(OSError, match="no space"):
            saver.wait()
        saver.wait()
    with pytest.raises(OSError, match="no space"), Saver() as saver:
        saver.save(fail, {})
    with pytest.raises(ZeroDivisionError), Saver() as saver:
        saver.save(fail, {})
        raise ZeroDivisionError
