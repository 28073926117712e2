"""Random numbers by counter."""

from __future__ import annotations

import numpy as np
import pytest

from shared.datasets import draws


# Random123's kat_vectors: philox4x32 10, counter, key, result.
@pytest.mark.parametrize(
    "line",
    [
        "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
    ],
)
def test_known_answers(line: str) -> None:
    words = [int(word, 16) for word in line.split()]
    counter = tuple(np.full((2, 3), word, np.uint64) for word in words[:4])
    found = draws.philox(counter, (words[4], words[5]))
    for word, expected in zip(found, words[6:], strict=True):
        np.testing.assert_array_equal(word, np.full((2, 3), expected, np.uint64))


def test_everything_named_matters() -> None:
    def first(
        seed: int = 1, epoch: int = 2, example: int = 3, purpose: int = draws.CROP, attempt: int = 0
    ) -> int:
        return int(draws.draw(seed, epoch, np.array([example]), purpose, attempt)[0][0])

    others = (
        first(seed=2),
        first(seed=1 + (1 << 32)),
        first(epoch=3),
        first(example=4),
        first(purpose=draws.NOISE),
        first(attempt=1),
    )
    assert len({first(), *others}) == 7
    assert first() == first()


def test_an_example_s_numbers_do_not_depend_on_its_company() -> None:
    alone = draws.draw(7, 1, np.array([42]), draws.CROP)
    among = draws.draw(7, 1, np.arange(100), draws.CROP)
    assert [int(a[0]) for a in alone] == [int(b[42]) for b in among]


def test_below_reaches_every_number_evenly() -> None:
    words = draws.draw(0, 0, np.arange(90000), draws.CROP)[0]
    counts = np.bincount(draws.below(words, 9), minlength=9)
    assert len(counts) == 9
    assert np.abs(counts - 10000).max() < 5 * np.sqrt(10000)
    ends = np.array([0, 2**32 - 1], np.uint64)
    assert draws.below(ends, 9).tolist() == [0, 8]


def test_uniform_and_normal() -> None:
    words = draws.draw(0, 0, np.arange(100000), draws.NOISE)
    ends = draws.uniform(np.array([0, 2**32 - 1], np.uint64))
    assert 0 < ends[0] < ends[1] < 1
    assert draws.uniform(words[0]).mean() == pytest.approx(0.5, abs=5e-3)
    for numbers in draws.normal(words[0], words[1]):
        assert numbers.mean() == pytest.approx(0, abs=2e-2)
        assert numbers.std() == pytest.approx(1, abs=2e-2)
        assert (np.abs(numbers) > 1.959964).mean() == pytest.approx(0.05, abs=5e-3)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_permutation_has_every_example_once(count: int) -> None:
    for epoch in range(3):
        assert sorted(draws.permutation(0, epoch, count).tolist()) == list(range(count))


def test_permutations_differ_by_seed_and_epoch() -> None:
    orders = {
        tuple(draws.permutation(seed, epoch, 100).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16  # also not seed 1's first epoch for seed 0's second


def test_any_place_of_a_permutation_is_as_likely_as_any_other() -> None:
    found = np.stack([draws.permutation(3, epoch, 5) for epoch in range(2000)])
    for place in range(5):
        assert np.abs(np.bincount(found[:, place], minlength=5) - 400).max() < 5 * np.sqrt(400)
