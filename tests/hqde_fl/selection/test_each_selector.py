"""What each selector prefers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from hqde_fl.selection import (
    Adaptive,
    Candidates,
    ClientHistory,
    LeastLoaded,
    Oort,
    PowerOfChoice,
    RoundRobin,
    Selector,
)
from tests.hqde_fl.selection.simulated_rounds import Client, Rounds

FREE = float("inf")
"""No ceiling."""


def first(
    selector: Selector, changes: Mapping[int, Mapping[str, Any]], size: int = 2, seed: int = 0
) -> set[int]:
    """Return the clients of a round of six that were all chosen in the round before."""
    usual = {"selected": 3, "last_selected": 9, "seconds": 2.0, "examples": 50.0, "loss": 1.0}
    history = {client: ClientHistory(**{**usual, **changes.get(client, {})}) for client in range(6)}
    candidates = Candidates(range(6), size, 10, history=history)
    return set(selector.select(candidates, {}, np.random.default_rng(seed)).clients)


@pytest.mark.parametrize(
    "worse",
    [
        {"success_rate": 0.8},
        {"load": 0.5},
        {"host_load": 0.5},
        {"seconds": 3.0},
        {"examples": 20.0},
    ],
)
def test_adaptive(worse: Mapping[str, Any]) -> None:
    """Each of its measurements counts."""
    usual = {client: {"examples": 50.0 + client} for client in range(6)}  # so that they differ
    changes = usual | {client: {**usual[client], **worse} for client in (2, 4)}
    assert first(Adaptive(ceiling=FREE), changes, 4) == {0, 1, 3, 5}


def test_adaptive_does_not_prefer_the_hasty() -> None:
    """Who is faster than the median gains nothing by it: equals are in random order."""
    changes = {client: {"seconds": 0.001} for client in (0, 1)}
    chosen = [first(Adaptive(ceiling=FREE), changes, seed=seed) for seed in range(8)]
    assert set().union(*chosen) == set(range(6))


def test_least_loaded() -> None:
    loads = {client: {"load": 0.1 * client} for client in range(6)}
    assert first(LeastLoaded(ceiling=FREE), loads) == {0, 1}
    hosts = loads | {0: {"host_load": 0.9}}
    assert first(LeastLoaded(ceiling=FREE), hosts) == {1, 2}
    assert first(LeastLoaded(ceiling=FREE), loads | {0: {"success_rate": 0.6}}) == {1, 2}


def test_power_of_choice() -> None:
    losses = {client: {"loss": 1.0 + 0.1 * client} for client in range(6)}
    assert first(PowerOfChoice(factor=3.0, ceiling=FREE), losses) == {4, 5}
    drawn = [first(PowerOfChoice(factor=1.0, ceiling=FREE), losses, seed=seed) for seed in range(8)]
    assert set().union(*drawn) == set(range(6))  # with as many drawn as chosen, the loss is nothing


def test_oort_prefers_what_can_be_learnt_and_the_fast() -> None:
    """Over many draws, high losses and fast clients are chosen more."""
    clients = [
        Client(1.0, lambda number, loss=0.2 + 0.2 * i: (50.0, loss))  # type: ignore[misc]
        for i in range(10)
    ]
    clients[9] = Client(30.0, clients[9].claim)
    shares = Rounds(Oort(0.3, ceiling=FREE), clients).run(150).fair_shares()
    assert shares[6:9].mean() > shares[:3].mean() + 0.3
    assert shares[9] < 0.6


def test_oorts_pacer_lets_slower_clients_in_when_the_utility_falls() -> None:
    falling = [Client(1.0 + i, lambda number: (50.0, 1 / number)) for i in range(10)]
    rising = [Client(1.0 + i, lambda number: (50.0, float(number))) for i in range(10)]
    assert Rounds(Oort(0.3, window=5), falling).run(40).state["pace"] > 0.5
    assert Rounds(Oort(0.3, window=5), rising).run(40).state["pace"] == 0.5


def test_oort_explores_new_clients() -> None:
    rounds = Rounds(Oort(0.1), [Client() for _ in range(100)]).run(8)
    assert len(set().union(*rounds.chosen)) >= 60


def test_round_robin_takes_turns() -> None:
    rounds = Rounds(RoundRobin(0.4), [Client() for _ in range(5)]).run(5)
    assert rounds.chosen == [[0, 1], [2, 3], [0, 4], [1, 2], [3, 4]]
