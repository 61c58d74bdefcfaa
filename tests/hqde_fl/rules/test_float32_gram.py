"""Decisions from float32 distances equal the exact ones, or are None."""

import pytest
import torch
from torch import Tensor

from hqde_fl.rules import Cohort, Krum, MultiKrum, SerialExecutor, ThreadedExecutor, aggregate
from hqde_fl.rules.float32_gram import measure_in_float32
from hqde_fl.rules.krum import krum_scores
from hqde_fl.updates import Updates

N, D = 20, 110_000
"""Large enough for the float32 pass to be worth it."""


def drawn(seed: int, scale: float = 1.0, spread: float = 1.0) -> Tensor:
    """Rows of different length around a common part."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 1 + spread * torch.rand(N, 1, generator=generator)
    common = torch.randn(D, generator=generator)
    return scale * (common + lengths * torch.randn(N, D, generator=generator))


def exact(updates: Tensor) -> Tensor:
    wide = updates.double()
    squared = torch.stack([((wide - row) ** 2).sum(dim=1) for row in wide])
    return squared


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_no_distance_is_further_off_than_stated(scale: float) -> None:
    for seed in range(3):
        updates = drawn(seed, scale)
        distances = measure_in_float32(Updates(list(updates)), ThreadedExecutor())
        assert distances is not None
        squared = distances.geometry.squared_distances()
        assert bool(((squared - exact(updates)).abs() <= distances.error).all())
        off = ~torch.eye(N, dtype=torch.bool)
        assert float((distances.error / squared)[off].max()) < 1e-4


@pytest.mark.parametrize("rule", [Krum(4), MultiKrum(4), MultiKrum(4, 7)], ids=str)
def test_decisions_from_float32_are_those_from_float64(rule: Krum | MultiKrum) -> None:
    decided = 0
    for seed in range(8):
        updates = drawn(seed, spread=10.0 ** -(seed // 2 + 1))
        distances = measure_in_float32(Updates(updates), SerialExecutor())
        assert distances is not None
        decision = rule.decide_from_float32(distances, Cohort.of(N), {})
        best = krum_scores(exact(updates), 4).argsort()
        count = 1 if isinstance(rule, Krum) else rule.m or N - 4
        found = aggregate(rule, Updates(updates)).influence
        assert set(found.nonzero().flatten().tolist()) == set(best[:count].tolist())
        if decision is not None:
            decided += 1
            assert decision.mixing is not None
            torch.testing.assert_close(decision.mixing[0], found)
    assert decided > 0


@pytest.mark.parametrize("rule", [Krum(4), MultiKrum(4, 7)], ids=str)
def test_equal_scores_are_not_decided_from_float32(rule: Krum | MultiKrum) -> None:
    half = drawn(0, spread=0.0)[: N // 2]
    updates = torch.cat([half, -half])  # an update and its opposite are as far from all others
    distances = measure_in_float32(Updates(updates), SerialExecutor())
    assert distances is not None
    assert rule.decide_from_float32(distances, Cohort.of(N), {}) is None


def test_weights_of_size_one_that_differ_by_a_millionth() -> None:
    for seed in range(5):
        updates = 1 + 1e-6 * drawn(seed)
        best = int(krum_scores(exact(updates), 4).argmin())
        found = aggregate(Krum(4), Updates(list(updates))).influence
        assert found.argmax() == best


@pytest.mark.parametrize("case", ["copies", "huge", "tiny", "small"])
def test_inconclusive_distances_give_no_decision(case: str) -> None:
    updates = drawn(0)
    if case == "copies":  # float32 cannot tell a distance of zero from a small one
        updates[3] = updates[7]
        assert measure_in_float32(Updates(updates), SerialExecutor()) is None
    elif case == "huge":  # the squares leave float32's range
        assert measure_in_float32(Updates(updates * 1e25), SerialExecutor()) is None
    elif case == "tiny":
        distances = measure_in_float32(Updates(updates * 1e-25), SerialExecutor())
        assert distances is None or Krum(4).decide_from_float32(distances, Cohort.of(N), {}) is None
    else:  # float32 would save no time
        assert measure_in_float32(Updates(updates[:, :1000]), SerialExecutor()) is None
