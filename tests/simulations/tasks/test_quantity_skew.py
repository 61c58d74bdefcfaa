import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.tasks import PARTITIONERS
from hqde_fl.simulations.tasks.quantity_skew import QuantitySkew


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["dirichlet", "power-law"]),
    alpha=st.floats(0.01, 50),
    count=st.integers(1, 12),
    least=st.integers(1, 4),
    extra=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_every_example_is_dealt_once_and_nobody_gets_less_than_the_least(
    kind, alpha, count, least, extra, seed
):
    n = count * least + extra
    parts = QuantitySkew(kind, alpha, least).split(np.zeros(n), count, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert min(map(len, parts)) >= least


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_sizes_follow_the_power_law_in_a_drawn_order(alpha):
    n, count = 10_000, 7
    sizes = [len(part) for part in QuantitySkew("power-law", alpha).split(np.zeros(n), count, 0)]
    exact = np.arange(1.0, count + 1) ** -alpha
    exact *= (n - count) / exact.sum()
    np.testing.assert_allclose(sorted(sizes, reverse=True), exact + 1, atol=1)
    other = [len(part) for part in QuantitySkew("power-law", alpha).split(np.zeros(n), count, 1)]
    assert sorted(sizes) == sorted(other)
    assert sizes != other


def test_a_small_concentration_is_more_skewed():
    def largest(alpha):
        return np.mean(
            [
                max(map(len, QuantitySkew("dirichlet", alpha).split(np.zeros(500), 10, seed)))
                for seed in range(10)
            ]
        )

    assert largest(0.1) > largest(1.0) > largest(100.0)


def test_classes_are_alike_in_large_parts():
    labels = np.sort(np.arange(4000) % 10)
    for part in QuantitySkew("power-law", 1.0).split(labels, 3, 0):
        shares = np.bincount(labels[part], minlength=10) / len(part)
        assert np.abs(shares - 0.1).max() < 0.05


def test_its_own_seed_fixes_the_division():
    fixed = QuantitySkew(seed=3)
    pairs = zip(fixed.split(np.zeros(99), 4, 0), fixed.split(np.zeros(99), 4, 1), strict=True)
    assert all(np.array_equal(one, two) for one, two in pairs)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"alpha": 0.0}, r"alpha must be finite and > 0, found 0\.0"),
        ({"alpha": float("inf")}, "alpha must be finite and > 0, found inf"),
        ({"min-size": 0}, "min_size must be >= 1, found 0"),
        ({"seed": -2}, "seed must be >= 0, found -2"),
        ({"sizes": "zipf"}, "sizes"),
    ],
)
def test_impossible_parameters_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        PARTITIONERS.build({"name": "quantity-skew", **table})


def test_too_few_examples_are_refused():
    with pytest.raises(ConfigError, match="needs 12 examples for 4 partitions, found 11"):
        QuantitySkew(min_size=3).split(np.zeros(11), 4, 0)
