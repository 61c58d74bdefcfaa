import numpy as np
import pytest
from scipy import stats

from hqde_fl.simulations.statistics.samples import Sample

VALUES = (0.91, 0.935, 0.902, 0.941, 0.917)


def test_mean_deviation_and_interval_are_those_of_scipy():
    sample = Sample(VALUES)
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert sample.mean == pytest.approx(np.mean(VALUES))
    assert sample.deviation == pytest.approx(np.std(VALUES, ddof=1))
    assert tuple(sample.interval) == pytest.approx((expected.low, expected.high))


def test_a_bootstrap_interval_is_seeded_and_within_the_values():
    sample = Sample(VALUES, "bootstrap")
    low, high = sample.interval
    assert min(VALUES) <= low < sample.mean < high <= max(VALUES)
    assert Sample(VALUES, "bootstrap").interval == (low, high)
    assert (low, high) != tuple(Sample(VALUES).interval)


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_an_interval_is_cut_at_the_bounds_of_its_values(method):
    near = Sample((0.97, 1.0, 0.9), "t", (0.0, 1.0))
    assert near.interval.high == 1.0 < Sample(near.values).interval.high
    assert near.interval.low == Sample(near.values).interval.low
    percent = Sample((97.0, 100.0, 90.0), method, (0.0, 1.0))
    assert percent.interval == Sample(percent.values, method).interval


def test_one_seed_has_no_interval_and_equal_values_have_one_of_no_length():
    assert (Sample((0.5,)).deviation, Sample((0.5,)).interval) == (None, None)
    for method in ("t", "bootstrap"):
        assert Sample((0.5, 0.5, 0.5), method).interval == (0.5, 0.5)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_true_mean_of_95_percent_of_simulated_sweeps(seeds):
    drawn = np.random.default_rng(3).normal(0.9, 0.02, (1000, seeds))
    intervals = [Sample(tuple(values)).interval for values in drawn.tolist()]
    covered = sum(low <= 0.9 <= high for low, high in intervals)
    assert 930 <= covered <= 970
