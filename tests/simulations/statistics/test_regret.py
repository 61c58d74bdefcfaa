"""Regret is measured against the rule that other seeds call best."""

from __future__ import annotations

import numpy as np
import pytest

from hqde_fl.simulations.statistics.regret import regrets


def test_the_best_rule_is_chosen_on_other_seeds() -> None:
    values = {"a": {1: 0.9, 2: 0.5, 3: 0.9}, "b": {1: 0.8, 2: 0.8, 3: 0.8}}
    found = regrets(values)
    # seed 1: a .7, b .8 on the others; seed 2: a .9, b .8; seed 3: a .7, b .8
    assert found["a"] == pytest.approx({1: -0.1, 2: 0.0, 3: -0.1})
    assert found["b"] == pytest.approx({1: 0.0, 2: -0.3, 3: 0.0})


def test_of_losses_the_least_is_best() -> None:
    found = regrets({"a": {1: 2.0, 2: 2.0}, "b": {1: 1.0, 2: 1.5}}, higher_is_better=False)
    assert found == {"a": {1: 1.0, 2: 0.5}, "b": {1: 0.0, 2: 0.0}}


def test_a_rule_that_lacks_seeds_is_compared_on_its_own_and_never_best() -> None:
    found = regrets({"a": {1: 0.9, 2: 0.7}, "b": {1: 0.8, 2: 0.9}, "dropped": {1: 0.95}})
    # seed 1: b is best on seed 2
    assert found["dropped"] == pytest.approx({1: -0.15})
    assert found["a"] == pytest.approx({1: -0.1, 2: 0.0})


@pytest.mark.parametrize("values", [{}, {"a": {1: 0.5}}, {"a": {1: 0.5}, "b": {2: 0.5}}])
def test_without_two_seeds_of_one_rule_there_is_none(
    values: dict[str, dict[int, float]],
) -> None:
    assert regrets(values) == {}


def test_choosing_on_other_seeds_is_unbiased_where_choosing_on_the_same_is_not() -> None:
    """Twelve equal rules with noise: the regret is 0 in the mean, not that of the luckiest."""
    rng = np.random.default_rng(0)
    means, naive = [], []
    for _ in range(400):
        noise = rng.normal(0, 0.02, size=(12, 3))
        values = {rule: dict(enumerate(row)) for rule, row in enumerate(noise.tolist())}
        means.append(np.mean([list(found.values()) for found in regrets(values).values()]))
        naive.append(noise.mean(axis=1).max() - noise.mean())
    assert abs(np.mean(means)) < 0.002
    assert np.mean(naive) > 0.015
