"""How far each rule is from the best one, chosen on other seeds than it is scored on.

The best of twelve noisy rules looks better than it is: its mean is the greatest partly by luck. So
for each seed the best rule is the one with the best mean over the *other* seeds, and its value
under this seed is what the others are compared with. The differences of one rule may then be
negative, and their mean over the seeds is an unbiased estimate of the distance to the rule that
one would have chosen.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

from hqde_fl.simulations.statistics.samples import Sample

Rule = TypeVar("Rule", bound=Hashable)
Seed = TypeVar("Seed", bound=Hashable)


@dataclass(frozen=True)
class Regret(Generic[Rule]):
    """The distance of a rule to the best one under one condition.

    Parameters
    ----------
    sample : Sample
        Value of the best rule minus that of this one, for each seed; positive: this one is worse.
    best : tuple
        The rule that was best on the other seeds, for each seed.
    """

    sample: Sample
    best: tuple[Rule, ...]

    @property
    def mean(self) -> float:
        """The mean distance over the seeds."""
        return self.sample.mean


def regrets(
    values: Mapping[Rule, Mapping[Seed, float]],
    *,
    candidates: frozenset[Rule] | None = None,
    higher_is_better: bool = True,
) -> dict[Rule, Regret[Rule]]:
    """Return each rule's regret under one condition.

    Parameters
    ----------
    values : Mapping
        Rule -> seed -> final metric. Seeds that not all rules have are left out.
    candidates : frozenset, optional
        The rules among which the best one is chosen; all if not given.
    higher_is_better : bool
        The direction of the metric.

    Returns
    -------
    dict
        Empty with fewer than two common seeds: the best rule could not be chosen on another one.
    """
    chosen_from = values.keys() if candidates is None else candidates & values.keys()
    common = sorted(set.intersection(*map(set, values.values())), key=str) if values else []
    if len(common) < 2 or not chosen_from:
        return {}
    sign = 1.0 if higher_is_better else -1.0
    best = []
    for seed in common:
        others = [other for other in common if other != seed]
        means = {rule: sign * fmean(values[rule][o] for o in others) for rule in chosen_from}
        best.append(max(means, key=lambda rule: (means[rule], str(rule))))
    return {
        rule: Regret(
            Sample(
                tuple(
                    sign * (values[top][seed] - values[rule][seed])
                    for top, seed in zip(best, common, strict=True)
                )
            ),
            tuple(best),
        )
        for rule in values
    }
