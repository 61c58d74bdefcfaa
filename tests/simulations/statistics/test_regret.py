"""Regret is measured against the rule that other seeds call best."""

from __future__ import annotations

import numpy as np
import pytest

from hqde_fl.simulations.statistics.regret import regrets


def test_the_best_rule_is_chosen_on_other_seeds() -> None:
    values = {"a": {1: 0.9, 2: 0.5, 3: 0.9}, "b": {1: 0.8, 2: 0.8, 3: 0.8}}
    found = regrets(values)
    # seed 1: a .7, b .8 on the others; seed 2: a .9, b .8; seed 3: a .7, b .8
    assert found["a"].best == ("b", "a", "b")
    assert found["a"].sample.values == pytest.approx((-0.1, 0.0, -0.1))
    assert found["b"].sample.values == pytest.approx((0.0, -0.3, 0.0))


def test_of_losses_the_least_is_best() -> None:
    found = regrets({"a": {1: 2.0, 2: 2.0}, "b": {1: 1.0, 2: 1.5}}, higher_is_better=False)
    assert found["a"].best == ("b", "b")
    assert found["a"].mean == pytest.approx(0.75)
    assert found["b"].mean == 0.0


def test_only_candidates_can_be_best_and_only_common_seeds_count() -> None:
    values = {"told f": {1: 0.6, 2: 0.6}, "adaptive": {1: 0.9, 2: 0.7, 3: 0.1}}
    found = regrets(values, candidates=frozenset({"told f"}))
    assert found["adaptive"].sample.values == pytest.approx((-0.3, -0.1))
    assert found["told f"].mean == 0.0


@pytest.mark.parametrize("values", [{}, {"a": {1: 0.5}}, {"a": {1: 0.5}, "b": {2: 0.5}}])
def test_without_two_common_seeds_there_is_none(values: dict[str, dict[int, float]]) -> None:
    assert regrets(values) == {}


def test_choosing_on_other_seeds_is_unbiased_where_choosing_on_the_same_is_not() -> None:
    """Twelve equal rules with noise: the regret is 0 in the mean, not that of the luckiest."""
    rng = np.random.default_rng(0)
    means, naive = [], []
    for _ in range(400):
        noise = rng.normal(0, 0.02, size=(12, 3))
        values = {rule: dict(enumerate(row)) for rule, row in enumerate(noise.tolist())}
        means.append(np.mean([regret.mean for regret in regrets(values).values()]))
        naive.append(noise.mean(axis=1).max() - noise.mean())
    assert abs(np.mean(means)) < 0.002
    assert np.mean(naive) > 0.015
