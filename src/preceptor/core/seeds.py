"""One seed, and from it one independent number, generator or permutation for every named use."""

import hashlib

import numpy as np
import numpy.typing as npt

from preceptor.core.canonical import canonical_json

_MASK64 = (1 << 64) - 1
# Multipliers of the SplitMix64 finaliser. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number
# generators", OOPSLA 2014, with the constants of variant 13.
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
# With fewer rounds, or fewer bits, the permutations of five or six things are not equally likely (chi-squared test).
_NUM_ROUNDS = 12
_MIN_BITS = 6


def derive(seed: int, *names: str | int) -> int:
    """A number from 0 to 2**63 - 1 that depends on the seed and on every name, and on nothing else."""
    digest = hashlib.sha256(canonical_json([seed, *names]).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for one named use."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def _mix(value: int, key: int) -> int:
    value = (value + key) & _MASK64
    value = ((value ^ (value >> 30)) * _MULTIPLY_1) & _MASK64
    value = ((value ^ (value >> 27)) * _MULTIPLY_2) & _MASK64
    return value ^ (value >> 31)


def _mix_many(values: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    values = values + np.uint64(key)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MULTIPLY_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MULTIPLY_2)
    return values ^ (values >> np.uint64(31))


class KeyedPermutation:
    """A permutation of range(size) chosen by a key, evaluated at any place in constant time and memory.

    A Feistel network permutes a power of two that holds the range; values that fall outside are sent through it again
    until they fall inside, which keeps it a bijection and takes under two passes on average, but for tiny ranges.
    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, the cycle-walking cipher.
    """

    def __init__(self, size: int, key: int) -> None:
        if not 0 < size <= 1 << 62:
            raise ValueError(f"size must be from 1 to 2**62, got {size}")
        self.size = size
        self.key = key
        num_bits = max(_MIN_BITS, (size - 1).bit_length())
        self._low_bits = num_bits // 2
        self._low_mask = (1 << self._low_bits) - 1
        self._high_mask = (1 << (num_bits - self._low_bits)) - 1
        self._round_keys = [derive(key, "keyed-permutation", index) for index in range(_NUM_ROUNDS)]

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"KeyedPermutation(size={self.size}, key={self.key})"

    def __call__(self, place: int) -> int:
        """The value at a place.

        Raises:
            IndexError: the place is outside range(size).
        """
        return self._walk(place, self._round_keys, first_half_is_low=False)

    def inverse(self, value: int) -> int:
        """The place of a value.

        Raises:
            IndexError: the value is outside range(size).
        """
        # Each round changes one half by the other and undoes itself, so the rounds backwards are the inverse.
        return self._walk(value, self._round_keys[::-1], first_half_is_low=True)

    def many(self, places: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The values at many places, in the shape of `places`.

        Raises:
            IndexError: a place is outside range(size).
        """
        places = np.asarray(places)
        if places.size and (places.min() < 0 or places.max() >= self.size):
            raise IndexError(f"places must be from 0 to {self.size - 1}")
        values = self._pass_many(places.astype(np.uint64).reshape(-1))
        limit = np.uint64(self.size)
        outside = np.flatnonzero(values >= limit)
        while outside.size:
            values[outside] = self._pass_many(values[outside])
            outside = outside[values[outside] >= limit]
        return values.astype(np.int64).reshape(places.shape)

    def _walk(self, value: int, round_keys: list[int], *, first_half_is_low: bool) -> int:
        if not 0 <= value < self.size:
            raise IndexError(f"{value} is not in range({self.size})")
        while True:
            high, low = value >> self._low_bits, value & self._low_mask
            change_low = first_half_is_low
            for key in round_keys:
                if change_low:
                    low ^= _mix(high, key) & self._low_mask
                else:
                    high ^= _mix(low, key) & self._high_mask
                change_low = not change_low
            value = high << self._low_bits | low
            if value < self.size:
                return value

    def _pass_many(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        shift = np.uint64(self._low_bits)
        low_mask, high_mask = np.uint64(self._low_mask), np.uint64(self._high_mask)
        high, low = values >> shift, values & low_mask
        for index, key in enumerate(self._round_keys):
            if index % 2:
                low = low ^ (_mix_many(high, key) & low_mask)
            else:
                high = high ^ (_mix_many(low, key) & high_mask)
        return high << shift | low
