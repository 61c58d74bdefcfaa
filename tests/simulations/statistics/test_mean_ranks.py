from math import inf

import numpy as np
import pytest
from scipy import stats

from hqde_fl.simulations.statistics.mean_ranks import mean_ranks

RULES = 4
NOISE = np.random.default_rng(1).random((RULES, 14))


def ranked(matrix):
    return mean_ranks({f"rule {place}": row for place, row in enumerate(matrix.tolist())})


def test_rank_one_is_the_least_bad_and_equal_values_share_their_ranks():
    ranks = mean_ranks({"bad": [3.0, inf], "tied": [1.0, 1.0], "good": [1.0, 0.5]})
    assert dict(ranks.ranks) == {"good": 1.25, "tied": 1.75, "bad": 3.0}
    assert list(ranks.ranks) == ["good", "tied", "bad"]
    assert (ranks.conditions, ranks.p, ranks.critical_difference) == (2, None, None)
    assert mean_ranks({"alone": [1.0]}) is None
    assert mean_ranks({"a": [], "b": []}) is None


def test_the_critical_difference_is_that_of_demsar():
    assert ranked(NOISE).critical_difference == pytest.approx(1.25, abs=0.005)  # his example


def test_the_test_agrees_with_friedmans_where_its_approximation_is_good():
    for matrix in (NOISE, NOISE + 0.3 * np.arange(RULES)[:, None]):
        assert ranked(matrix).p == pytest.approx(stats.friedmanchisquare(*matrix).pvalue, abs=0.02)
