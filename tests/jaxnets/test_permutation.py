"""Orders of which any part is computed alone; and epochs of sets that are large enough to need one."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxnets import Split, epochs
from jaxnets.epochs import EpochPlan, train_epoch_by_call
from jaxnets.permutation import KeyedPermutation


def test_each_number_comes_once_and_parts_are_those_of_the_whole():
    for size in (1, 2, 3, 4, 5, 64, 65, 1000, 4097):
        order = KeyedPermutation(jax.random.key(size), size)
        whole = order[:]
        np.testing.assert_array_equal(np.sort(whole), np.arange(size))
        np.testing.assert_array_equal(np.concatenate([order[: size // 3], order[size // 3 :]]), whole)
        assert len(order) == size and order[size:].shape == (0,)


def test_orders_are_random():
    """Where a number goes, and where its neighbour and another key's: no correlations, and cells filled alike (χ²)."""
    n = 2**16 + 1
    one, other = (KeyedPermutation(jax.random.key(seed), n)[:] for seed in (0, 1))
    position = np.arange(n)
    for a, b in ((one, position), (one[1:], one[:-1]), (one, other)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
        cells = np.histogram2d(a, b, bins=16, range=[[0, n], [0, n]])[0]
        expected = len(a) / 256
        chi_squared = ((cells - expected) ** 2 / expected).sum()  # of about 225 degrees of freedom
        assert abs(chi_squared - 225) < 5 * np.sqrt(2 * 225) + 30
    assert abs((one == position).sum() - 1) < 8  # a random permutation has one fixed point on average


def test_a_part_of_more_examples_than_any_memory_holds():
    """And never the same one twice."""
    order = KeyedPermutation(jax.random.key(0), 10**15)
    part = order[10**14 : 10**14 + 10_000]
    assert len(np.unique(part)) == len(part) and part.min() >= 0 and part.max() < 10**15
    assert abs(part.mean() / 10**15 - 0.5) < 5 / np.sqrt(12 * 10_000)


def test_sizes_that_are_none_are_refused(unenforced):
    for size in (0, -1, 2**62 + 1, 1.5):
        with pytest.raises(ValueError, match=r"size must be"):
            KeyedPermutation(jax.random.key(0), size)


@pytest.mark.parametrize("limit", [30, 29])
def test_large_sets_on_the_host_take_a_keyed_order(monkeypatch, unenforced, limit):
    """Each image once an epoch, in another order each time; a resumed epoch goes on with the very next one."""
    monkeypatch.setattr(epochs, "MOST_SHUFFLED_WHOLE", limit)
    state, plan = SimpleNamespace(key=jax.random.key(0)), EpochPlan.of(30, 8)
    split = Split(np.zeros((30, 1, 1, 1), np.uint8), np.arange(30, dtype=np.int32))

    def take(state, totals, source, indices, start, *, batch_size, steps):
        return state, [*totals, *np.asarray(source.labels).tolist()]

    def order(epoch, done=0):
        *_, (_, seen, _) = train_epoch_by_call(state, split, plan, epoch, done=done, totals=[], take=take)
        return seen

    first = order(0)
    assert sorted(first) == list(range(30)) and order(1) != first
    assert order(0, done=2) == first[16:]
    whole = np.asarray(epochs.epoch_order(state.key, 0, 30)).tolist()
    assert (first == whole) == (limit == 30)


def test_more_examples_than_an_epoch_counts_are_refused():
    assert EpochPlan.of(2**31 - 1, 2**16).examples == 2**31 - 1
    assert EpochPlan.of(2**40, 100, 7).examples == 700
    with pytest.raises(ValueError, match=r"an epoch counts up to 2147483647 examples, and not 2147483648: give"):
        EpochPlan.of(2**31, 2**16)
