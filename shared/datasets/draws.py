"""Random numbers that are a function of (seed, epoch, example) and of nothing else, for whole
batches at once.

Philox-4x32-10 of Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3";
the known answers of their library Random123 are in the tests. What an example gets does not depend
on its batch, on the step that training resumed at, on the shard or on the thread.
"""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

# What a number is drawn for.
ORDER, CROP, NOISE, PLACE, BOX = range(5)


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Four words of 32 bits, as uint64 arrays, for every counter of four words (uint64 arrays of
    one shape).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def draw(
    seed: int, epoch: int, examples: np.ndarray, purpose: int, attempt: int = 0
) -> tuple[np.ndarray, ...]:
    """Four words for every example [n], each below 2**32, as uint64 [n]. `seed` is below 2**64."""
    example = examples.astype(np.uint64)
    others = (np.full_like(example, n) for n in (epoch, purpose, attempt))
    return philox((example, *others), (seed & 0xFFFFFFFF, seed >> 32))


def below(words: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Integers in [0, bound), each as likely as the next to 2**-32 times `bound`; int64."""
    return ((words * np.asarray(bound, np.uint64)) >> _HALF).astype(np.int64)


def uniform(words: np.ndarray) -> np.ndarray:
    """float64 in (0, 1)."""
    return (words.astype(np.float64) + 0.5) / 2.0**32


def normal(words: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two standard normal numbers out of two words (Box and Muller 1958)."""
    radius, angle = np.sqrt(-2.0 * np.log(uniform(words))), 2.0 * np.pi * uniform(others)
    return radius * np.cos(angle), radius * np.sin(angle)


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch: the examples 0 to count - 1, sorted by 64 random bits each; int64
    [count].
    """
    high, low, *_ = draw(seed, epoch, np.arange(count), ORDER)
    return np.argsort((high << _HALF) | low, kind="stable")
