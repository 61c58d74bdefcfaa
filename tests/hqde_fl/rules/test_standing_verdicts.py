"""Verdicts on directions stand in the rounds that cannot tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.direction_memory import MIN_ALIKE, MIN_TOLD, Directions, judge


def last_of(agreeing: int, noisy: int) -> Directions:
    """Return what is said in the last round; clients 6 and 7 send the opposite at first."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(200, generator=generator, dtype=torch.float64)
    signs = torch.tensor([1.0] * 6 + [-1.0] * 2, dtype=torch.float64)[:, None]
    state: Any = {}
    for number in range(agreeing + noisy):
        updates = torch.randn(8, 200, generator=generator, dtype=torch.float64)
        if number < agreeing:
            updates = signs * (common + 0.5 * updates)
        said = judge(updates, torch.ones(8, dtype=torch.float64), Cohort.of(8), state)
        state = said.state
    return said


def test_opposed_clients_stay_so_when_updates_are_noise() -> None:
    said = last_of(MIN_TOLD + 1, 60)
    assert said.alike < MIN_ALIKE
    assert said.opposed.tolist() == [False] * 6 + [True] * 2


@pytest.mark.parametrize("agreeing", [0, 1])
def test_a_few_rounds_convict_nobody_for_ever(agreeing: int) -> None:
    said = last_of(agreeing, 60)
    assert said.alike < MIN_ALIKE
    assert not said.opposed.any()
