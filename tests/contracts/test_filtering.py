"""``filters`` agrees with the rules' behaviour: it is True if a rule filters clients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hqde_fl.rules import (
    ARC,
    CAF,
    MDA,
    NNM,
    Adaptive,
    Aggregator,
    Bucketing,
    ByzantineFilter,
    Chain,
    Cohort,
    DnC,
    Entanglement,
    Median,
    MoNNA,
    MultiKrum,
    Robust,
    SignGuard,
    Tree,
    Voting,
    aggregate,
)
from hqde_fl.updates import Updates
from tests.contracts.rule_examples import ALL, context_of

N, D, F = 12, 40, 2

OTHERS = {
    "multi-krum, fewer": MultiKrum(F, m=4),
    "multi-krum, all that f leaves": MultiKrum(F, m=N - F),
    "multi-krum, nobody faulty": MultiKrum(0),
    "mda, nobody faulty": MDA(0),
    "monna, nobody faulty": MoNNA(0, trusted=4),
    "dnc, nobody faulty": DnC(0),
    "caf, nobody faulty": CAF(0),
    "filter that drops nobody": ByzantineFilter(fraction=0.0),
    "filter of a fraction too small": ByzantineFilter(fraction=0.05),
    "adaptive without": Adaptive(
        low=0.0, entanglement=Entanglement(coupling="random"), voting=Voting()
    ),
    "chain that mixes": Chain(NNM(F), MultiKrum(F)),
    "chain that clips": Chain(ARC(F), ByzantineFilter()),
    "chain in a chain": Chain(Chain(NNM(F), ARC(F)), SignGuard()),
    "chain of buckets": Chain(Bucketing(2), MultiKrum(1)),
    "chain of buckets of one": Chain(Bucketing(1), MultiKrum(F)),
    "chain that ends in a median": Chain(NNM(F), Median()),
    "tree of filters": Tree(SignGuard(), Median(), fanout=4),
    "tree with a filter on top": Tree(Median(), SignGuard(), fanout=4),
    "tree of one node": Tree(Median(), SignGuard(), fanout=N),
    "tree of one node below medians": Tree(SignGuard(), Median(), fanout=N),
    "robust": Robust(),
}


def rounds() -> list[Tensor]:
    """Honest updates alone, and with one or two that are far away, reversed, short or alike."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for spread in (0.1, 1.0, 10.0):
        honest = 1 + spread * torch.randn(N, D, generator=generator)
        found.append(honest)
        for change in (-4.0, -1000.0, 1e-3, 100.0):
            for last in (4, 5):
                faulty = honest.clone()
                faulty[3:last] *= change
                found.append(faulty)
        alike = honest.clone()
        alike[3:5] = -2 * honest.mean(dim=0)
        found.append(alike)
    return found


def ever_filters(rule: Aggregator) -> bool:
    outcomes, state = [], None
    for updates in rounds():
        cohort = replace(Cohort.of(N), context=context_of(rule, updates))
        outcomes.append(aggregate(rule, Updates(updates), cohort, state))
        state = outcomes[-1].state if "history" in rule.needs else None
    return any(bool(outcome.filtered.any()) for outcome in outcomes)


@pytest.mark.parametrize("name", [*ALL, *OTHERS])
def test_filters_is_true_for_rules_that_filter(name: str) -> None:
    rule = OTHERS[name] if name in OTHERS else ALL[name].make(F)
    assert rule.filters(N) == ever_filters(rule)


@pytest.mark.parametrize(("m", "expected"), [(0, True), (10, True), (9, False), (1, False)])
def test_multi_krum_filters_only_with_the_largest_m(m: int, expected: bool) -> None:
    assert MultiKrum(F, m=m).filters(N) is expected
