from itertools import product

import numpy as np
import pytest
from scipy import stats

from hqde_fl.simulations.statistics.paired import (
    MIN_SEEDS,
    PairedDifference,
    holm,
    paired_difference,
    sign_flip_test,
    with_holm,
)
from hqde_fl.simulations.statistics.samples import Sample

DIFFERENCES = (0.031, 0.012, -0.004, 0.022, 0.018, 0.009, -0.001, 0.015)


def test_a_sign_flip_test_counts_all_patterns_of_signs():
    flipped = [abs(np.dot(signs, DIFFERENCES)) for signs in product((1, -1), repeat=8)]
    expected = np.mean(np.array(flipped) >= abs(sum(DIFFERENCES)) - 1e-12)
    assert sign_flip_test(DIFFERENCES) == pytest.approx(expected)


def test_a_comparison_pairs_the_seeds_that_both_have():
    base = {f"seed={n}": 0.8 + 0.01 * n for n in range(8)}
    values = {f"seed={n}": base[f"seed={n}"] + DIFFERENCES[n] for n in (7, 2, 1, 0, 3, 4, 5, 6)}
    paired = paired_difference({**values, "seed=99": 0.1}, base)
    expected = stats.ttest_rel([values[s] for s in base], [base[s] for s in base])
    assert paired.sample.n == 8
    assert paired.mean == pytest.approx(np.mean(DIFFERENCES))
    assert tuple(paired.sample.interval) == pytest.approx(tuple(expected.confidence_interval()))
    assert paired.p == pytest.approx(sign_flip_test(DIFFERENCES))
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_fewer_than_seven_common_seeds_are_too_few_for_a_test():
    def p_of(count):
        return paired_difference(dict.fromkeys(range(count), 1.0), dict.fromkeys(range(9), 0.0)).p

    assert p_of(MIN_SEEDS - 1) is None
    assert p_of(MIN_SEEDS) == pytest.approx(2 / 2**7)


def test_holm_is_a_step_down_correction_that_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    sample = Sample((1.0,))
    family = {"a": PairedDifference(sample, 0.02), "b": PairedDifference(sample, None)}
    corrected = with_holm(family)
    assert (corrected["a"].p_holm, corrected["b"].p_holm) == (0.02, None)
