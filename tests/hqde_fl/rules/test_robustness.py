"""||F(x) - mean of S||^2 <= kappa var of S, for *every* S of n - f updates, against attackers.

No rule can do better than r = f / (n - 2f); what is checked is each rule's own constant.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hqde_fl.rules import (
    ARC,
    NNM,
    SMEA,
    Aggregator,
    Chain,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    TrimmedMean,
    aggregate,
)
from hqde_fl.updates import Updates

SIZES = ((3, 1), (5, 1), (5, 2), (7, 2), (7, 3), (9, 1), (9, 3), (9, 4))


def rules(n: int, f: int) -> Iterator[Aggregator]:
    last: list[Aggregator] = [TrimmedMean(f), Median(), GeometricMedian(), SMEA(f)]
    if n >= Krum(f).minimum():
        last.append(Krum(f))
    for rule in last:
        yield rule
        yield Chain(NNM(f), rule)
        yield Chain(ARC(f), rule)


def worst(rule: Aggregator, updates: Tensor, f: int) -> float:
    """Return the largest ||F - mean||^2 / (kappa var) over all S; above one the bound is broken."""
    n = updates.shape[0]
    kappa = rule.kappa(n, f)
    assert kappa is not None
    delta = aggregate(rule, Updates(updates)).delta
    subsets = torch.tensor(list(itertools.combinations(range(n), n - f)))
    members = updates[subsets]
    means = members.mean(dim=1)
    spread = ((members - means[:, None]) ** 2).sum(dim=2).mean(dim=1)
    error = ((delta - means) ** 2).sum(dim=1)
    noise = 1e-12 * float((updates**2).sum())
    return float(((error - noise).clamp(min=0) / (kappa * spread + 1e-300)).max())


@pytest.mark.parametrize(("n", "f"), SIZES)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_bound_holds_on_any_small_integers(n: int, f: int, data: st.DataObject) -> None:
    values = st.lists(st.integers(-4, 4), min_size=2, max_size=2)
    rows = data.draw(st.lists(values, min_size=n, max_size=n))
    far = data.draw(st.sampled_from([1, 10, 10**6]))
    updates = torch.tensor(rows, dtype=torch.float64)
    updates[:f] *= far
    for rule in rules(n, f):
        assert worst(rule, updates, f) <= 1, rule


@pytest.mark.parametrize(("n", "f"), [(5, 1), (5, 2), (9, 3), (9, 4)])
def test_bound_holds_under_attack(n: int, f: int) -> None:
    """Faulty updates are mean + strength x direction, the direction from the honest spread."""
    generator = torch.Generator().manual_seed(n)
    honest = torch.randn(n - f, 4, dtype=torch.float64, generator=generator)
    centre, deviation = honest.mean(dim=0), honest.std(dim=0)
    directions = (-centre, deviation, honest[0] - centre, torch.ones(4, dtype=torch.float64))
    for rule in rules(n, f):
        for direction in directions:
            for strength in (0.1, 0.5, 1.0, 1.5, 3.0, 10.0, 1e4):
                faulty = (centre + strength * direction).expand(f, 4)
                assert worst(rule, torch.cat([faulty, honest]), f) <= 1, (rule, strength)


@pytest.mark.parametrize(
    "rule", [TrimmedMean(2), Median(), GeometricMedian(), Krum(2), SMEA(2)], ids=str
)
def test_bound_holds_under_a_search_for_the_worst_case(rule: Aggregator) -> None:
    """Hill climbing: keep each random change of all updates that brings the rule closer to it."""
    generator = torch.Generator().manual_seed(1)
    updates = torch.randn(7, 2, dtype=torch.float64, generator=generator)
    best, step = worst(rule, updates, 2), 1.0
    for _ in range(150):
        trial = updates + step * torch.randn(7, 2, dtype=torch.float64, generator=generator)
        found = worst(rule, trial, 2)
        if found > best:
            best, updates = found, trial
        else:
            step = max(0.05, 0.97 * step)
    assert 0.05 < best <= 1


def test_constants_of_the_papers() -> None:
    assert TrimmedMean(2).kappa(9, 2) == pytest.approx(6 * 0.4 * 1.4)
    assert Median().kappa(9, 2) == GeometricMedian().kappa(9, 2) == pytest.approx(4 * 1.4**2)
    assert Krum(2).kappa(9, 2) == pytest.approx(6 * 1.4)
    assert Chain(NNM(2), Median()).kappa(9, 2) == pytest.approx(16 / 7 * (4 * 1.4**2 + 1))
    assert SMEA(2).kappa(9, 2) == pytest.approx(8 / 7 * 1.4**2)
    assert Mean().kappa(9, 2) is None
    assert TrimmedMean(1).kappa(9, 2) is None
