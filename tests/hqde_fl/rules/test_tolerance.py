"""The meaning of f: drop-outs lower it only if the updates would otherwise be too few."""

from __future__ import annotations

import pytest
import torch

from hqde_fl.errors import BoundError
from hqde_fl.rules import (
    NNM,
    ByzantineFilter,
    Chain,
    Cohort,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    Tree,
    TrimmedMean,
    aggregate,
)
from hqde_fl.rules.tolerance import apply_tolerance, excused, silence_warning
from hqde_fl.updates import Updates
from tests.contracts.rule_examples import EXAMPLES


def least_excuse(minimum: list[int], n: int, faulty: int) -> int | None:
    """Return the least k in 0..faulty with n >= minimum(k); None if there is none."""
    fitting = [k for k in range(faulty + 1) if n >= minimum[k]]
    return fitting[0] if fitting else None


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("f", [0, 1, 2, 3])
def test_the_least_number_of_excluded_clients_is_excused(name: str, f: int) -> None:
    rule = EXAMPLES[name].make(f)
    minimum = [rule.minimum(k) for k in range(6)]
    for n in range(1, 14):
        for faulty in range(6):
            cohort = Cohort(tuple(range(n)), faulty=faulty, late=2, skipped=1)
            expected = least_excuse(minimum, n, faulty)
            if expected is None:
                with pytest.raises(BoundError, match=f"needs at least .* updates, found {n} "):
                    excused(rule, cohort)
            else:
                assert excused(rule, cohort) == expected
                assert apply_tolerance(rule, cohort).remaining(f) == max(0, f - expected)


def test_late_and_skipped_clients_excuse_nobody() -> None:
    cohort = Cohort((0, 1, 2, 3), late=3, skipped=2)
    assert excused(TrimmedMean(f=1), cohort) == 0
    with pytest.raises(
        BoundError,
        match=r"Krum\(f=1\) needs at least 5 updates, "
        r"found 4 \(9 asked, 3 late, 2 without data\)",
    ):
        excused(Krum(f=1), cohort)


def test_a_crash_does_not_lower_f_if_there_are_enough_updates() -> None:
    """One attacker, and an honest client that crashed: the attacker must not get the mean."""
    updates = torch.zeros(4, 3)
    updates[0] = -1000
    cohort = Cohort((0, 1, 2, 3), faulty=1)
    rules = TrimmedMean(f=1), Chain(NNM(f=1), Median()), Chain(NNM(f=1), TrimmedMean(f=1))
    for rule in rules:
        outcome = aggregate(rule, Updates(updates), cohort)
        assert outcome.f_used == 1
        assert float(outcome.delta.abs().max()) < 400, rule


def test_a_chain_is_excused_once_for_all_its_steps() -> None:
    """NNM alone would have enough updates for f = 1; Krum after it has only with f = 0."""
    rule = Chain(NNM(f=1), Krum(f=1))
    outcome = aggregate(rule, Updates(torch.randn(4, 3)), Cohort((0, 1, 2, 3), faulty=1))
    assert outcome.f_used == 0
    assert aggregate(rule, Updates(torch.randn(5, 3)), Cohort.of(5)).f_used == 1


def test_the_f_of_a_rule_is_the_largest_of_its_steps() -> None:
    assert Chain(NNM(f=2), TrimmedMean(f=1)).expected_faulty == 2
    assert Chain(NNM(f=2), GeometricMedian()).expected_faulty == 2
    for rule in (Mean(), Median(), ByzantineFilter(), Tree(TrimmedMean(f=1), Median())):
        assert rule.expected_faulty is None
        assert aggregate(rule, Updates(torch.randn(9, 3))).f_used is None


def test_excused_clients_reach_every_step() -> None:
    """With f lowered to 0 a trimmed mean is the mean."""
    updates = torch.randn(2, 5)
    outcome = aggregate(TrimmedMean(f=2), Updates(updates), Cohort((0, 1), faulty=2))
    assert outcome.f_used == 0
    torch.testing.assert_close(outcome.delta, updates.mean(dim=0))


@pytest.mark.parametrize(
    ("rule", "clients", "warns"),
    [
        (Krum(f=1), 5, True),
        (Krum(f=1), 6, False),
        (Krum(f=3), 10, True),
        (TrimmedMean(f=3), 10, False),
        (Chain(NNM(f=1), Krum(f=1)), 5, True),
        (TrimmedMean(f=0), 1, False),
        (Median(), 1, False),
    ],
)
def test_too_few_to_bear_f_silent_clients_is_a_warning(rule, clients: int, warns: bool) -> None:  # type: ignore[no-untyped-def]
    assert (silence_warning(rule, clients) is not None) is warns


def test_the_warning_names_the_bound_and_the_remedy() -> None:
    assert silence_warning(Krum(f=3), 10) == (
        "Krum(f=3) needs 9 updates, found 10 clients: a round is void as soon as 2 of them are "
        "late or without data; to bear f = 3 such clients it needs 12, or a lower f"
    )
    warning = str(silence_warning(Krum(f=1), 5, " of each member"))
    assert "found 5 clients of each member: a round is void as soon as 1 of them is late" in warning


def test_the_error_names_the_lowered_f() -> None:
    with pytest.raises(
        BoundError,
        match=r"Krum\(f=1\) with f lowered to 0 needs at least 3 updates, "
        r"found 2 \(4 asked, 2 rejected or failed\)",
    ):
        excused(Krum(f=1), Cohort((0, 1), faulty=2))
