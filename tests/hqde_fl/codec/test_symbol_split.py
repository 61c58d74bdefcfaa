"""The estimate by which a quantiser's step and a split of its indices are chosen."""

from __future__ import annotations

import numpy as np
import pytest

from hqde_fl.codec.symbol_split import entropy


def plain_entropy(values: np.ndarray) -> float:
    chances = np.unique(values, return_counts=True)[1] / values.size
    return float(-(chances * np.log2(chances)).sum())


DRAWS = {
    "uniform": lambda rng, size: rng.integers(0, 32, size),
    "Gaussian": lambda rng, size: np.rint(4 * rng.standard_normal(size)),
    "skewed": lambda rng, size: rng.geometric(0.2, size),
}


@pytest.mark.parametrize("counted", [200, 500, 2000])
@pytest.mark.parametrize("name", DRAWS)
def test_a_sample_says_what_all_values_cost(name: str, counted: int) -> None:
    """The entropy of a sample is too low by (symbols - 1) / (2 ln 2 size) bits (Miller 1955)."""
    errors, plain = [], []
    for seed in range(40):
        values = DRAWS[name](np.random.default_rng(seed), 50_000)
        whole, sample = plain_entropy(values), values[:counted]
        counts = np.unique(sample, return_counts=True)[1]
        errors.append(entropy(counts, values.size) - whole)
        plain.append(plain_entropy(sample) - whole)
    assert abs(np.mean(errors)) < abs(np.mean(plain)) / 2


@pytest.mark.parametrize("total", [1000, 10])
def test_values_that_were_all_counted_need_no_correction(total: int) -> None:
    values = np.random.default_rng(1).integers(0, 9, 1000)
    counts = np.bincount(values, minlength=20)  # symbols that do not occur cost nothing
    assert entropy(counts, total) == pytest.approx(plain_entropy(values))
