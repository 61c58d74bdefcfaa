"""The arena's results: condition -> rule -> seed -> accuracy, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from hqde_fl.simulations.statistics.regret import best_on_other_seeds
from hqde_fl.simulations.statistics.samples import Sample

DROPPED = 0.15
"""Accuracy below the best rule's on the first seed, from which a rule is dropped there."""
WITHIN = 0.03

Condition = tuple[str, str, str]
"""Attack, f and partition."""
Table = dict[Condition, dict[str, dict[int, float]]]
"""Condition -> rule -> seed -> accuracy, or regret."""
Regret = dict[Condition, dict[str, float]]
"""Condition -> rule -> mean regret; of one seed for rules that were dropped."""


def is_dropped(rules: Mapping[str, Mapping[int, float]], rule: str, first: int) -> bool:
    """Return True if a rule's first seed is too far below the best one under a condition."""
    values = {name: seeds[first] for name, seeds in rules.items() if first in seeds}
    return rule in values and values[rule] < max(values.values()) - DROPPED


def complete(table: Table, wanted: Mapping[Condition, Mapping[str, set[int]]]) -> Table:
    """Return the conditions in which every rule has all its wanted seeds, or is dropped."""
    return {
        condition: {rule: dict(table[condition][rule]) for rule in rules}
        for condition, rules in wanted.items()
        if all(min(seeds) in table[condition][rule] for rule, seeds in rules.items())
        and all(
            seeds == table[condition][rule].keys() or is_dropped(table[condition], rule, min(seeds))
            for rule, seeds in rules.items()
        )
    }


def means_of(table: Table) -> dict[Condition, dict[str, float]]:
    """Return condition -> rule -> mean accuracy over the seeds."""
    return {
        condition: {rule: fmean(seeds.values()) for rule, seeds in rules.items()}
        for condition, rules in table.items()
    }


def mean_regret(by_seed: Table, rule: str) -> Sample:
    """Return a rule's regret under each seed, in the mean over the conditions.

    Where it was dropped, its one seed stands for all.
    """
    seeds = sorted({seed for rules in by_seed.values() for own in rules.values() for seed in own})
    conditions = [rules[rule] for rules in by_seed.values()]
    return Sample(
        tuple(fmean(own.get(s, next(iter(own.values()))) for own in conditions) for s in seeds)
    )


def rows_of(table: Table, by_seed: Table, regret: Regret) -> list[dict[str, Any]]:
    """Return a row for each rule: worst and mean accuracy, regrets, all of complete conditions."""
    rows = []
    means = means_of(table)
    for rule in dict.fromkeys(rule for rules in table.values() for rule in rules):
        accuracy = {condition: rules[rule] for condition, rules in means.items()}
        own = [values[rule] for values in regret.values()]
        worst = min(accuracy, key=lambda condition: accuracy[condition])
        clean = [value for (_, f, _), value in accuracy.items() if f == "0"]
        sample = mean_regret(by_seed, rule)
        rows.append(
            {
                "rule": rule,
                "conditions": len(accuracy),
                "clean": fmean(clean) if clean else None,
                "mean": fmean(accuracy.values()),
                "worst": accuracy[worst],
                "worst at": ", ".join(worst),
                "mean regret": sample.mean,
                "interval": sample.interval,
                "greatest regret": max(own),
                "within .03": fmean(value <= WITHIN for value in own),
                "best": fmean(values[rule] == min(values.values()) for values in regret.values()),
            }
        )
    return sorted(rows, key=lambda row: -row["worst"])


def best_of_group(table: Table, rules: Iterable[str]) -> dict[Condition, dict[int, float]]:
    """Return condition -> seed -> accuracy of the best of some rules, chosen on the other seeds.

    Only conditions in which one of them has all seeds, of which there are two or more.
    """
    group = set(rules)
    best = {}
    for condition, values in table.items():
        seeds = set().union(*values.values())
        own = best_on_other_seeds({r: values[r] for r in group & values.keys()})
        if own.keys() == seeds:
            best[condition] = own
    return best
