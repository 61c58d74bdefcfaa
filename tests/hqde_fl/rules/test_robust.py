"""The rule without f: the weights of clients, and its memory."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules import Aggregate, ByzantineFilter, Cohort, Mean, Robust, aggregate
from hqde_fl.rules.near_duplicates import near_duplicate_groups
from hqde_fl.rules.trusted import trust
from hqde_fl.updates import Updates


def honest(n: int, d: int = 400, common: float = 0.5, seed: int = 0) -> Tensor:
    """Updates of length about one that share a direction: their cosines are about common^2."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(d, generator=generator, dtype=torch.float64)
    own = torch.randn(n, d, generator=generator, dtype=torch.float64)
    rows: Tensor = (common * shared + (1 - common**2) ** 0.5 * own) / d**0.5
    return rows


def run(rows: Tensor, rule: Robust | ByzantineFilter | Mean | None = None) -> Aggregate:
    return aggregate(rule or Robust(), Updates(rows))


def off(found: Aggregate, rows: Tensor) -> float:
    """Return the distance to the honest mean, in lengths of it."""
    mean = rows.mean(dim=0)
    return float((found.delta - mean).norm() / mean.norm())


def squared(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows) ** 2


def test_without_faults_it_is_nearly_the_mean() -> None:
    for seed in range(5):
        rows = honest(10, seed=seed)
        found = run(rows)
        assert off(found, rows) < 0.15
        assert not found.filtered.any()
        assert float(found.influence.min()) > 0.05


@pytest.mark.parametrize("f", [1, 2, 3])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0, 10.0])
def test_opponents_of_the_majority_have_no_weight(f: int, epsilon: float) -> None:
    rows = honest(10 - f)
    sent = (-epsilon * rows.mean(dim=0)).expand(f, -1)
    found = run(torch.cat([rows, sent]))
    assert found.filtered.tolist() == [False] * (10 - f) + [True] * f
    assert off(found, rows) < 0.2
    assert found.diagnostics["outliers"] == f


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
def test_colluders_gain_no_weight_from_each_others_trust(spread: float) -> None:
    rows = honest(7, common=0.4)
    generator = torch.Generator().manual_seed(1)
    noise = spread * torch.randn(3, 400, generator=generator, dtype=torch.float64) / 20
    sent = -rows.mean(dim=0) / rows.mean(dim=0).norm() + noise
    found = run(torch.cat([rows, sent]))
    assert found.influence[7:].sum() == 0
    assert off(found, rows) < 0.2


def test_no_update_counts_as_longer_than_so_many_medians() -> None:
    rows = honest(10)
    rows[4] *= 1e6
    found = run(rows)
    assert float(found.delta.norm()) <= 2 * float(rows.norm(dim=1).median())
    plain = run(rows, Robust(longest=1.0, directions=False))
    assert float(plain.delta.norm()) <= float(rows.norm(dim=1).median())
    assert run(rows, Robust(longest=3.0, directions=False)).delta.norm() > plain.delta.norm()


def test_far_longer_updates_have_little_weight() -> None:
    """In few dimensions a huge error in one of them still points a little where all others do."""
    rows = torch.ones(11, 50, dtype=torch.float64) + honest(11, d=50) / 100
    rows[3, 7] += 1e6
    found = run(rows)
    assert float((found.delta - 1).abs().max()) < 0.05
    assert found.filtered.tolist() == [row == 3 for row in range(11)]
    weighed = run(rows, Robust(directions=False))
    assert float((weighed.delta - 1).abs().max()) < 0.05
    assert 0 < float(weighed.influence[3]) < 1e-4
    assert float(run(rows, Robust(far=1e9, directions=False)).delta[7]) > 1.1


@pytest.mark.parametrize("n", [4, 6, 8])
def test_if_half_of_the_updates_are_zero_so_is_the_result(n: int) -> None:
    rows = honest(n)
    rows[: n // 2] = 0
    found = run(rows)
    assert not found.delta.any()
    assert found.influence.isfinite().all()


def test_copies_count_once() -> None:
    rows = honest(8)
    copied = torch.cat([rows, rows[2].expand(3, -1)])
    once, thrice = run(rows), run(copied)
    torch.testing.assert_close(
        thrice.delta, once.delta, rtol=0, atol=0.1 * float(once.delta.norm())
    )
    share = float(thrice.influence[2] + thrice.influence[8:].sum())
    assert share == pytest.approx(float(once.influence[2]), rel=0.2)


@pytest.mark.parametrize(("closeness", "copied"), [(0.08, True), (0.12, False)])
def test_updates_nearer_than_a_tenth_of_the_typical_distance_count_once(
    closeness: float, copied: bool
) -> None:
    rows = honest(9)
    direction = rows[1] - rows[0]
    typical = float(torch.cdist(rows, rows).sort(dim=1).values[:, 4].median())
    near = rows[0] + closeness * typical * direction / direction.norm()
    influence = run(torch.cat([rows, near[None]]), Robust(directions=False)).influence
    shared = float(influence[0] + influence[9]) / float(influence[1:9].mean())
    assert shared < 1.3 if copied else shared > 1.7


def test_trust_is_remembered() -> None:
    rows = honest(9)
    bad = torch.cat([rows, -rows.mean(dim=0, keepdim=True)])
    cohort, rule = replace(Cohort.of(10), round=1), Robust(directions=False)
    state = aggregate(rule, Updates(bad), cohort).state
    good = honest(10, seed=3)
    fresh = aggregate(rule, Updates(good), cohort)
    wary = aggregate(rule, Updates(good), cohort, state)
    assert wary.diagnostics["trust"]["9"] < 0.6 * fresh.diagnostics["trust"]["9"]
    assert aggregate(
        Robust(memory=0.0, directions=False), Updates(good), cohort, state
    ).delta.equal(aggregate(Robust(memory=0.0, directions=False), Updates(good), cohort).delta)
    for _ in range(8):
        wary = aggregate(rule, Updates(good), cohort, wary.state)
    assert off(wary, good) < 1.1 * off(fresh, good) + 1e-3


def test_without_agreement_it_is_the_shortened_mean() -> None:
    rows = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(run(rows).delta, rows.mean(dim=0))
    assert not run(rows).filtered.any()
    opposite = torch.stack([rows[0], -rows[0]])
    torch.testing.assert_close(run(opposite).delta, torch.zeros(6, dtype=torch.float64))


def test_trust_is_the_leading_eigenvector_of_positive_agreement() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(7, 7, generator=generator, dtype=torch.float64)
    matrix = (raw + raw.T).fill_diagonal_(0)
    leading = torch.linalg.eigh(matrix).eigenvectors[:, -1].abs()
    torch.testing.assert_close(trust(matrix), leading / leading.max(), rtol=0, atol=1e-6)
    assert trust(-matrix).tolist() == [0.0] * 7


def test_near_duplicates_are_copies_and_near_copies_of_copies() -> None:
    rows = honest(8)
    near = rows[3] + 0.05 * (rows[4] - rows[3])
    nearer = near + 0.05 * (rows[5] - rows[3])
    found = near_duplicate_groups(squared(torch.cat([rows, torch.stack([near, nearer])])), 0.08)
    assert [group for group in found if len(group) > 1] == [[3, 8, 9]]
    assert sorted(row for group in found for row in group) == list(range(10))


def test_if_most_updates_coincide_none_is_a_near_duplicate() -> None:
    rows = torch.cat([torch.ones(6, 5), torch.zeros(2, 5)])
    assert near_duplicate_groups(squared(rows), 0.1) == [[k] for k in range(8)]
    assert not run(rows, ByzantineFilter(detectors=("twins",))).filtered.any()


def test_the_filter_finds_colluders_close_to_the_mean() -> None:
    rows = honest(30)
    sent = (rows.mean(dim=0) - 0.5 * rows.std(dim=0)).expand(6, -1)
    both = torch.cat([rows, sent])
    truth = [False] * 30 + [True] * 6
    assert not run(both, ByzantineFilter(detectors=("mad",))).filtered[30:].any()
    found = run(both, ByzantineFilter()).filtered  # one of the copies counts
    assert (int(found[:30].sum()), int(found[30:].sum())) == (0, 5)
    assert run(both, ByzantineFilter(detectors=("mad", "twins"))).filtered.tolist() == truth


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"closeness": 1.0}, r"closeness in \[0, 1\), found 1.0"),
        ({"memory": -0.1}, r"memory in \[0, 1\), found -0.1"),
        ({"saturation": 0.0}, r"saturation in \(0, 1\], found 0.0"),
        ({"full": 1.5}, r"full in \(0, 1\], found 1.5"),
        ({"longest": 0.5}, "longest >= 1, found 0.5"),
        ({"far": 0.5}, "far >= longest = 2.0, found 0.5"),
    ],
)
def test_impossible_parameters_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Robust(**options)


@pytest.mark.parametrize("scales", [(1.0, 2.0, -1.0), (1.0, 1.1, 1.2, -1.0, -1.3)], ids=str)
def test_the_larger_group_is_trusted_if_opposition_is_as_strong(
    scales: tuple[float, ...],
) -> None:
    """One more supporter than opponents: every client's cosines sum to zero or less."""
    update = honest(1)[0]
    kept = [scale for scale in scales if scale > 0]
    for order in permutations(scales):
        found = run(torch.stack([scale * update for scale in order]))
        assert [scale < 0 for scale in order] == found.filtered.tolist()
        assert min(kept) <= float(found.delta @ update / (update @ update)) <= max(kept)
    alone = torch.tensor([[0.0, 1, -1], [1, 0, -1], [-1, -1, 0]], dtype=torch.float64)
    assert trust(alone).tolist() == [1, 1, 0]


def rounds_of(n: int, rounds: int, d: int = 400) -> list[Tensor]:
    """Updates that share a direction, with residuals that follow a walk of their own."""
    generator = torch.Generator().manual_seed(4)
    shared = torch.randn(d, generator=generator, dtype=torch.float64)
    own = torch.randn(n, d, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(rounds):
        own = 0.85 * own + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
        found.append((shared + own) / d**0.5)
    return found


@pytest.mark.parametrize("rule", [Robust(), ByzantineFilter()], ids=["robust", "filter"])
@pytest.mark.parametrize("f", [1, 3])
def test_a_direction_that_never_changes_is_found_over_rounds(
    rule: Robust | ByzantineFilter, f: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    push = torch.randn(400, generator=generator, dtype=torch.float64) / 20
    state = None
    for number, rows in enumerate(rounds_of(10, 12), start=1):
        deviation = rows[f:].std(dim=0)
        size = float(deviation.norm())
        for i in range(f):
            noise = torch.randn(400, generator=generator, dtype=torch.float64)
            rows[i] = rows[f:].mean(dim=0) + 0.7 * size * push + 0.7 * deviation * noise
        cohort = replace(Cohort.of(10), round=number)
        outcome = aggregate(rule, Updates(rows), cohort, state)
        state = outcome.state
        if number == 1:
            assert not outcome.filtered.any()
    assert outcome.filtered.tolist() == [True] * f + [False] * (10 - f)


@pytest.mark.parametrize("rule", [Robust(), ByzantineFilter()], ids=["robust", "filter"])
def test_newcomers_and_other_sizes_start_without_a_past(rule: Robust | ByzantineFilter) -> None:
    state = None
    for rows in rounds_of(6, 4):
        state = aggregate(rule, Updates(rows), Cohort.of(6), state).state
    more = honest(7)
    outcome = aggregate(rule, Updates(more), Cohort((1, 2, 3, 4, 5, 9, 8)), state)
    assert not outcome.filtered.any()
    assert set(outcome.state["0"]["directions"]["clients"]) == {str(i) for i in (*range(6), 8, 9)}
    other = aggregate(rule, Updates(honest(6, d=30)), Cohort.of(6), state)
    assert other.state["0"]["directions"]["size"] == 30
    torch.testing.assert_close(
        other.delta, aggregate(rule, Updates(honest(6, d=30)), Cohort.of(6)).delta, rtol=0, atol=0.1
    )


def test_noisy_copies_count_once_and_the_filter_keeps_the_original() -> None:
    rows = honest(10, d=2000)
    noise = torch.randn(3, 2000, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    rows[7:] = rows[2] + 0.15 * noise / 2000**0.5
    assert run(rows, ByzantineFilter()).filtered.tolist() == [False] * 7 + [True] * 3
    influence = run(rows).influence
    shared = float(influence[2] + influence[7:].sum())
    assert shared == pytest.approx(1 / 7, rel=0.4)
