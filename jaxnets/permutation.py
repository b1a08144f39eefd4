"""A random order of very many examples, of which any part is computed alone, without the others in memory.

A Feistel network is a bijection of 2b-bit numbers whatever its round function is: (left, right) becomes (right, left ⊕
f(right)). In the smallest such domain that holds n numbers, a number from n on is mapped again until one below n comes
out, which leaves a bijection of n numbers (cycle walking: Black and Rogaway, Ciphers with Arbitrary Finite Domains,
2002). The domain has fewer than 4n numbers, so that four rounds of walking are enough on average.
"""

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt64

from jaxnets.domains import check_count

_ROUNDS = 8  # four make a pseudo-random permutation (Luby and Rackoff, 1988) of a perfect round function


@dataclasses.dataclass(frozen=True)
class KeyedPermutation:
    """A permutation of 0 … size − 1 that `key` determines; `permutation[start:stop]` is that part of it.

    Raises:
      ValueError: for a `size` that is not in 1 … 2⁶².
    """

    key: Array
    size: int

    def __post_init__(self) -> None:
        check_count("size", self.size)
        if self.size > 2**62:
            raise ValueError(f"size must be 2⁶² or less, not {self.size}")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> Int[np.ndarray, "M"]:
        start, stop, stride = part.indices(self.size)
        numbers = np.arange(start, stop, stride, dtype=np.int64).astype(np.uint64)
        if numbers.size == 0:
            return numbers.astype(np.int64)
        numbers = self._mixed(numbers)
        while (outside := np.flatnonzero(numbers >= self.size)).size:
            numbers[outside] = self._mixed(numbers[outside])
        return numbers.astype(np.int64)

    @cached_property
    def _round_keys(self) -> UInt64[np.ndarray, "rounds"]:
        words = np.asarray(jax.random.bits(self.key, (2, _ROUNDS), jnp.uint32)).astype(np.uint64)
        return words[0] << np.uint64(32) | words[1]

    def _mixed(self, numbers: UInt64[np.ndarray, "M"]) -> UInt64[np.ndarray, "M"]:
        bits = max((self.size - 1).bit_length() + 1, 2) // 2  # of each half
        half, mask = np.uint64(bits), np.uint64(2**bits - 1)
        left, right = numbers >> half, numbers & mask
        for key in self._round_keys:
            left, right = right, left ^ (_scrambled(right + key) & mask)
        return left << half | right


def _scrambled(numbers: UInt64[np.ndarray, "M"]) -> UInt64[np.ndarray, "M"]:
    """SplitMix64's finaliser, in which each bit of the input changes half of the output's (Steele et al., 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)
