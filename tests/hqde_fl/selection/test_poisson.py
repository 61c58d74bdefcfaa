"""Poisson sampling draws every client by itself, with one probability."""

from __future__ import annotations

import numpy as np
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.selection import Candidates, Poisson


def test_clients_are_drawn_independently_with_the_probability() -> None:
    rng, clients, rounds = np.random.default_rng(0), 50, 2000
    drawn = np.zeros((rounds, clients))
    for number in range(rounds):
        drawn[number, Poisson(0.3).select(Candidates(range(clients), 15), {}, rng).clients] = 1
    assert drawn.mean(axis=0) == pytest.approx(0.3, abs=0.05)
    assert drawn.sum(axis=1).var() == pytest.approx(clients * 0.3 * 0.7, rel=0.15)
    correlations = np.corrcoef(drawn.T) - np.eye(clients)
    assert np.abs(correlations).max() < 0.12


def test_nobody_may_be_drawn_and_everybody() -> None:
    rng = np.random.default_rng(0)
    sizes = {len(Poisson(0.5).select(Candidates(range(2), 1), {}, rng).clients) for _ in range(50)}
    assert sizes == {0, 1, 2}
    assert Poisson().select(Candidates([4, 7], 2), {}, rng).clients == [4, 7]


def test_its_size_is_the_expected_number() -> None:
    assert [Poisson(0.25).size(n) for n in (0, 1, 100)] == [0, 1, 25]


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_an_impossible_probability_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"Poisson.fraction must be in \(0, 1\]"):
        Poisson(fraction)
