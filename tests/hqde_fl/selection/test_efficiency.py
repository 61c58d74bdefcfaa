"""Efficiencies of clients, and the weights that they give in a mean."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.errors import ConfigError
from hqde_fl.rules import (
    NNM,
    Adaptive,
    Bucketing,
    Chain,
    Cohort,
    Mean,
    Superposition,
    Tree,
    aggregate,
)
from hqde_fl.rules.mean import efficiency_factors
from hqde_fl.selection import ClientHistory
from hqde_fl.selection.efficiency import MAX_CLAIM, efficiencies
from hqde_fl.updates import Updates

HISTORY = st.builds(
    ClientHistory,
    selected=st.integers(0, 3),
    success_rate=st.floats(0, 1),
    seconds=st.none() | st.just(0.0) | st.floats(1e-9, 1e6),
    examples=st.none() | st.just(0.0) | st.floats(1e-3, 1e9),
)
HISTORIES = st.lists(HISTORY, min_size=1, max_size=9)


def middle(values: list[float]) -> float:
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def oracle(histories: list[ClientHistory]) -> list[float]:
    """Return the efficiencies by plain loops over their definition."""
    claims = [h.examples for h in histories if h.examples is not None and h.examples > 0]
    typical_claim = middle(claims) if claims else 1.0
    times: list[float | None] = []
    for history in histories:
        if history.seconds is None:
            times.append(None)
            continue
        claim = typical_claim if history.examples is None else history.examples
        times.append(history.seconds / max(1 / MAX_CLAIM, min(MAX_CLAIM, claim / typical_claim)))
    known = [t for t in times if t is not None]
    typical = middle(known) if known else 0.0
    scores: list[float | None] = []
    for history, t in zip(histories, times, strict=True):
        if history.selected == 0:
            scores.append(None)
        elif t is None or t == typical:
            scores.append(history.success_rate / 2)
        else:
            scores.append(history.success_rate * typical / (typical + t))
    seen = [score for score in scores if score is not None]
    average = middle(seen) if seen else 0.5
    return [average if score is None else score for score in scores]


@given(HISTORIES)
@settings(max_examples=60, deadline=None)
def test_efficiencies_are_those_of_the_definition(histories: list[ClientHistory]) -> None:
    assert efficiencies(histories) == pytest.approx(oracle(histories), rel=1e-12, abs=1e-300)


def test_a_factor_does_not_depend_on_its_place() -> None:
    shares = torch.linspace(0.3, 0.7, 1001, dtype=torch.float64)
    factors = efficiency_factors(shares.tolist(), 0.9)
    for shift in (0, 35, 134, 140):  # torch takes the last powers of a vector one by one
        moved = efficiency_factors(shares.roll(shift).tolist(), 0.9)
        assert torch.equal(moved, factors.roll(shift))


@given(HISTORIES, st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_weights_are_bounded_and_follow_the_clients(
    histories: list[ClientHistory], strength: float, order: random.Random
) -> None:
    scores = efficiencies(histories)
    assert all(0 <= score <= 1 for score in scores)
    factors = efficiency_factors(scores, strength)
    assert bool(((factors >= 0.5) & (factors <= 2)).all())
    places = list(range(len(histories)))
    order.shuffle(places)
    moved = efficiencies([histories[place] for place in places])
    assert moved == tuple(scores[place] for place in places)
    assert torch.equal(efficiency_factors(moved, strength), factors[places])


@given(HISTORY, st.integers(1, 9), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_equal_clients_have_equal_weights(
    history: ClientHistory, count: int, strength: float
) -> None:
    factors = efficiency_factors(efficiencies([history] * count), strength)
    assert factors.tolist() == [1.0] * count


@given(
    others=st.lists(HISTORY, min_size=2, max_size=8),
    liar=HISTORY,
    seconds=st.floats(0, 1e6),
    claim=st.floats(0, 1e9),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_client_claims_it_counts_at_most_twice_as_much_as_a_typical_one(
    others: list[ClientHistory], liar: ClientHistory, seconds: float, claim: float
) -> None:
    lie = ClientHistory(selected=1, seconds=seconds, examples=claim)
    for own in (liar, lie):
        weights = efficiency_factors(efficiencies([own, *others]), 1.0)
        assert weights[0] <= 2 * weights.median()
        assert weights[0] <= 4 * weights.min()


def test_a_lie_about_examples_gains_an_average_client_a_factor_of_eight_fifths() -> None:
    cohort = [ClientHistory(selected=1, seconds=10.0, examples=100.0) for _ in range(7)]
    lie = ClientHistory(selected=1, seconds=10.0, examples=1e9)
    honest, lying = efficiencies(cohort)[0], efficiencies([lie, *cohort[1:]])[0]
    assert lying / honest == pytest.approx(8 / 5)


def test_who_has_more_examples_may_take_longer() -> None:
    small = ClientHistory(selected=4, seconds=10.0, examples=100.0)
    large = ClientHistory(selected=4, seconds=30.0, examples=300.0)
    assert efficiencies([small, large, small]) == (0.5, 0.5, 0.5)


def test_the_tiniest_claims_leave_all_weights_finite() -> None:
    cohort = [
        ClientHistory(selected=1, seconds=seconds, examples=examples)
        for seconds, examples in ((4.0, 5e-324), (0.0, None), (1e300, 1e9))
    ]
    assert all(0 <= score <= 1 for score in efficiencies(cohort))


def test_new_and_unmeasured_clients_are_average() -> None:
    fast = ClientHistory(selected=2, seconds=1.0, examples=10.0)
    slow = ClientHistory(selected=2, seconds=4.0, examples=10.0)
    silent = ClientHistory(selected=2, success_rate=0.5)
    scores = efficiencies([fast, ClientHistory(), slow, silent])
    assert scores == pytest.approx((2.5 / 3.5, 2.5 / 6.5, 2.5 / 6.5, 0.25))
    assert efficiencies([ClientHistory()] * 3) == (0.5, 0.5, 0.5)
    assert efficiencies([]) == ()


def test_clients_without_any_success_still_count_as_little_as_the_bound_allows() -> None:
    scores = (0.0, 0.5, 0.5, 0.5)
    assert efficiency_factors(scores, 1.0).tolist() == [0.5, 1, 1, 1]
    assert efficiency_factors((0.0, 0.0, 0.0, 0.5), 1.0).tolist() == [1, 1, 1, 2]


def test_a_mean_multiplies_examples_and_efficiency() -> None:
    rows = torch.eye(3, dtype=torch.float64)
    cohort = Cohort((0, 1, 2), num_examples=(10.0, 20.0, 30.0), confidence=(0.25, 0.5, 0.6))
    outcome = aggregate(Mean(weighted=True, efficiency=1.0), Updates(rows), cohort)
    expected = torch.tensor([10 * 0.5, 20 * 1.0, 30 * 1.2], dtype=torch.float64)
    assert torch.allclose(outcome.delta, expected / expected.sum())
    half = aggregate(Mean(efficiency=0.5), Updates(rows), cohort).delta
    assert half[2] / half[1] == pytest.approx(1.2**0.5)
    plain = aggregate(Mean(), Updates(rows), cohort).delta
    assert torch.equal(aggregate(Mean(efficiency=0), Updates(rows), cohort).delta, plain)


@given(n=st.integers(1, 40), fanout=st.integers(2, 5), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_a_tree_of_such_means_is_the_flat_mean(n: int, fanout: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    scores = tuple(torch.rand(n, generator=generator, dtype=torch.float64).tolist())
    cohort = Cohort(tuple(range(n)), num_examples=tuple(range(1, n + 1)), confidence=scores)
    mean = Mean(weighted=True, efficiency=0.7)
    tree = aggregate(Tree(mean, Mean(), fanout), Updates(rows), cohort)
    flat = aggregate(mean, Updates(rows), cohort)
    assert torch.allclose(tree.delta, flat.delta)
    assert torch.allclose(tree.influence, flat.influence)


def test_superposition_weighs_by_the_softmax_of_efficiency() -> None:
    rows = torch.eye(3)
    cohort = Cohort((0, 1, 2), confidence=(1.0, 0.5, 0.0))
    rule = Superposition(confidence="efficiency", longest=0)
    weights = aggregate(rule, Updates(rows), cohort).influence
    assert weights[0] / weights[1] == pytest.approx(torch.tensor(2.0).exp())
    assert weights[1] / weights[2] == pytest.approx(torch.tensor(2.0).exp())


def test_rules_that_contain_one_need_efficiencies_or_say_why_they_cannot() -> None:
    mean, state = Mean(efficiency=1.0), Superposition(confidence="efficiency")
    chain = Chain(NNM(0), mean)
    rules = [mean, Mean(efficiency=True), state, chain, Tree(leaf=chain)]
    assert {rule.confidence_from for rule in rules} == {"efficiency"}
    assert Adaptive(superposition=state).confidence_from == "efficiency"
    assert Mean().confidence_from is Mean(weighted=True).confidence_from is None
    with pytest.raises(ConfigError, match="keep the clients apart"):
        Chain(Bucketing(2), mean)
    with pytest.raises(ConfigError, match="number of examples: chain it after"):
        Chain(Bucketing(2), Mean(weighted=True))
    with pytest.raises(ConfigError, match="a root that asks for no confidence"):
        Tree(root=mean)
    for rule in (mean, chain):
        with pytest.raises(ConfigError, match=r"needs Cohort\.confidence"):
            aggregate(rule, Updates(torch.eye(3)))
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"efficiency in \[0, 1\]"):
            Mean(efficiency=bad)
