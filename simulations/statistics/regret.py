"""Measure the distance of each rule to the best one, chosen on other seeds than it is scored on.

The best of twelve noisy rules looks better than it is: its mean is the greatest partly by luck. So
for each seed the best rule is the one with the best mean over the *other* seeds, and its value
under this seed is what the others are compared with. The differences of one rule may then be
negative. Their mean is an unbiased estimate of the distance to the rule that one would choose by
one seed less.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from statistics import fmean
from typing import TypeVar

Rule = TypeVar("Rule", bound=Hashable)


def regrets(
    values: Mapping[Rule, Mapping[int, float]], *, higher_is_better: bool = True
) -> dict[Rule, dict[int, float]]:
    """Return rule -> seed -> value of the best rule minus that of this one; positive: it is worse.

    Parameters
    ----------
    values : Mapping
        Rule -> seed -> final metric, under one condition. Only rules that have all seeds can be
        best; the others are compared on those that they have.
    higher_is_better : bool
        The direction of the metric.

    Returns
    -------
    dict
        Empty with fewer than two seeds, or if no rule has all of them.
    """
    sign = 1.0 if higher_is_better else -1.0
    best = best_on_other_seeds(values, higher_is_better=higher_is_better)
    return {
        rule: {seed: sign * (best[seed] - found[seed]) for seed in sorted(found)}
        for rule, found in values.items()
        if best
    }


def best_on_other_seeds(
    values: Mapping[Rule, Mapping[int, float]], *, higher_is_better: bool = True
) -> dict[int, float]:
    """Return seed -> value of the rule that has the best mean over the other seeds.

    Parameters
    ----------
    values : Mapping
        Rule -> seed -> final metric, under one condition. Only rules that have all seeds can be
        best.
    higher_is_better : bool
        The direction of the metric.

    Returns
    -------
    dict
        Empty with fewer than two seeds, or if no rule has all of them.
    """
    seeds = set().union(*values.values()) if values else set()
    whole = [rule for rule, found in values.items() if found.keys() == seeds]
    if len(seeds) < 2 or not whole:
        return {}
    sign = 1.0 if higher_is_better else -1.0
    best = {}
    for seed in seeds:
        means = {r: sign * fmean(values[r][other] for other in seeds - {seed}) for r in whole}
        best[seed] = values[max(whole, key=lambda rule: (means[rule], str(rule)))][seed]
    return best
