"""Exact normal numbers on a grid, from secure bits or seeded ones."""

import numpy as np
import pytest
from scipy import stats

from hqde_fl.privacy.rounded_normal import GRID_BITS, MAX_CHUNK, rounded_normal
from hqde_fl.privacy.secure_bits import Words, secure_words, uniform

UNIT = 2.0**-GRID_BITS


def words_of(*values: int) -> Words:
    """Return a source that gives these words, one after the other."""
    left = list(values)

    def words(n: int) -> np.ndarray:
        taken, left[:] = left[:n], left[n:]
        return np.array(taken, dtype=np.uint64)

    return words


def seeded_words(seed: int) -> Words:
    """Return a source of the words that a seeded generator gives."""
    generator = np.random.default_rng(seed)
    return lambda n: generator.integers(0, 2**64, n, dtype=np.uint64)


def test_it_is_normal() -> None:
    samples = rounded_normal(seeded_words(1), 200_000) * UNIT
    assert abs(samples.mean()) < 0.01
    assert samples.var() == pytest.approx(1, abs=0.015)
    assert abs(stats.kurtosis(samples)) < 0.05
    assert stats.kstest(samples, "norm").pvalue > 0.001


def test_the_tails_are_there() -> None:
    samples = np.abs(rounded_normal(seeded_words(2), 400_000) * UNIT)
    for deviations in (2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(deviations) * len(samples)
        found = int((samples > deviations).sum())
        assert abs(found - expected) < 4.5 * np.sqrt(expected), deviations


def test_exact_comparisons_accept_what_floating_point_does() -> None:
    """With a margin of 1 every comparison is made in decimals."""
    for seed in range(3):
        fast, exact = (
            rounded_normal(seeded_words(seed), 150, margin) for margin in (2.0**-40, 1.0)
        )
        np.testing.assert_array_equal(fast, exact)


def test_more_bits_decide_what_64_cannot() -> None:
    """k = 1 and x = 0 are accepted with probability 1; the next bits of x make it less than 1."""
    ones = 2**64 - 1

    def sampled(*more: int) -> np.ndarray:
        first = [0b10] + [0] * 65, [0] * 66, [ones] * 66  # 66 proposals for one sample
        return rounded_normal(words_of(*first[0], *first[1], *first[2], *more), 1)

    # tried = 0.11...1 followed by 0s, x = 0 followed by 0s: accepted once the bits say so
    assert sampled(0, 0).tolist() == [1 << GRID_BITS]
    # x larger and tried as large as can be: this one is refused, and the next is not wanted
    rest = [0b00] * 66, [0] * 66, [0] * 66
    assert sampled(ones, ones, *rest[0], *rest[1], *rest[2]).tolist() == [0]


def test_signs_are_fair_and_zero_is_no_special_case() -> None:
    samples = rounded_normal(seeded_words(3), 100_000)
    positive = int((samples > 0).sum())
    assert abs(positive - 50_000) < 5 * np.sqrt(25_000)
    assert (samples % 2 == 0).mean() == pytest.approx(0.5, abs=0.01)  # all steps of the grid


@pytest.mark.parametrize("size", [0, 1, 5, MAX_CHUNK + 1])
def test_any_number_of_samples(size: int) -> None:
    assert rounded_normal(secure_words, size).shape == (size,)


def test_secure_words_never_repeat() -> None:
    first, second = secure_words(1000), secure_words(1000)
    assert len({*first.tolist(), *second.tolist()}) == 2000


def test_uniform_numbers_are_in_the_unit_interval() -> None:
    numbers = uniform(secure_words, 50_000)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-6
