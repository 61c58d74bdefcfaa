"""Rules either have a bounded sensitivity, which random updates do not exceed, or are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from hqde_fl.catalogue import RULES
from hqde_fl.privacy import Sampling
from hqde_fl.privacy.composition import ARGUMENTS, REASONS, Composition
from hqde_fl.rules import (
    Aggregator,
    Bucketing,
    Chain,
    Clipping,
    Cohort,
    Krum,
    Mean,
    Median,
    Rule,
    Tree,
    aggregate,
)
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.updates import Updates
from tests.contracts.rule_examples import EXAMPLES

POISSON = Sampling(poisson=True, expected=9, clients=100)
FIXED = Sampling(poisson=False, expected=9, clients=100)

SUMS = {
    "mean": (Mean(), math.inf),
    "clipping": (Chain(Clipping(0.5), Mean()), 0.5),
    "clippings": (Chain(Chain(Clipping(3.0), Clipping(0.7)), Mean()), 0.7),
    "tree": (Tree(fanout=3), math.inf),
}
BOUNDED = {
    "buckets": Chain(Bucketing(2), Mean()),
    "clipped buckets": Chain(Bucketing(4), Clipping(0.3), Mean()),
    "buckets of clipped": Chain(Clipping(0.2), Bucketing(2), Mean()),
}


@dataclass(frozen=True)
class Half(Rule):
    """Half of the mean, with a bound of its own."""

    def minimum(self, faulty: int = 0) -> int:
        return 1

    def breakdown(self, n: int) -> int:
        return 0

    def sensitivity(self, n: int, norm: float) -> float:
        return norm / n

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        return Decision(torch.full((1, cohort.n), 0.5 / cohort.n, dtype=torch.float64))


@dataclass(frozen=True)
class Undeclared(Mean):
    """A mean that its author has changed, and not its bound."""

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        return Decision(torch.eye(cohort.n, dtype=torch.float64)[:1])


def moved(rule: Aggregator, n: int, norm: float) -> float:
    """Return how far the result moves when one of n random updates turns around."""
    generator = torch.Generator().manual_seed(n)
    updates = torch.randn(n, 20, generator=generator, dtype=torch.float64)
    updates = norm * updates / updates.norm(dim=1, keepdim=True)
    updates[-1] *= 0.1
    before = aggregate(rule, Updates(updates), Cohort.of(n)).delta
    largest = 0.0
    for row in range(n):
        other = updates.clone()
        other[row] = -norm * before / before.norm()
        after = aggregate(rule, Updates(other), Cohort.of(n)).delta
        largest = max(largest, float((after - before).norm()))
    return largest


def test_every_rule_has_an_argument_or_a_reason() -> None:
    assert {*ARGUMENTS, *REASONS} == {*RULES}
    assert not ARGUMENTS.keys() & REASONS.keys()


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("sampling", [POISSON, FIXED], ids=["poisson", "fixed"])
def test_sums_over_clients_are_accepted(name: str, sampling: Sampling) -> None:
    rule, clipping = SUMS[name]
    assert Composition.of(rule, sampling) == Composition(clipping)


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_rules_are_accepted_for_a_fixed_number(name: str) -> None:
    assert Composition.of(BOUNDED[name], FIXED) == Composition()
    refusal = Composition.of(BOUNDED[name], POISSON).refusal
    assert refusal is not None
    assert "selector 'uniform'" in refusal


@pytest.mark.parametrize("name", [*SUMS, *BOUNDED])
@pytest.mark.parametrize("n", [4, 9])
def test_no_client_moves_the_result_further_than_the_bound(name: str, n: int) -> None:
    rule = SUMS[name][0] if name in SUMS else BOUNDED[name]
    bound = rule.sensitivity(n, 1.5)
    assert bound is not None
    assert 0.1 * bound < moved(rule, n, 1.5) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - {"mean"}))
def test_no_robust_rule_is_accepted(name: str) -> None:
    composition = Composition.of(EXAMPLES[name].make(1), FIXED)
    assert composition.clipping is None
    assert composition.refusal
    if name in REASONS and name not in ("arc", "nnm"):
        assert composition.refusal == REASONS[name]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Krum(f=1), "which of the others count"),
        (Mean(weighted=True), "weighted = true"),
        (Mean(efficiency=0.5), "efficiency = 0.5"),
        (Chain(Clipping(1.0), Median()), "Median(): one update"),
        (Tree(leaf=Median()), "only a tree of means"),
        (Undeclared(), "does not declare"),
    ],
    ids=["krum", "weighted", "efficiency", "median", "tree", "undeclared"],
)
def test_refusals_say_why(rule: Aggregator, reason: str) -> None:
    refusal = Composition.of(rule, FIXED).refusal
    assert refusal is not None
    assert reason in refusal


def test_own_rules_declare_their_bound() -> None:
    assert Composition.of(Half(), FIXED).refusal is None
    assert Composition.of(Half(), POISSON).refusal is not None
