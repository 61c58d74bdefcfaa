"""Clients that want to be chosen always: by what they claim, and by how they reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hqde_fl.selection import SELECTORS
from hqde_fl.selection.bounded_claims import bounded_claims
from tests.hqde_fl.selection.simulated_rounds import Client, Rounds, log_uniform_clients

NAMES = ("adaptive", "least-loaded", "oort", "power-of-choice")


def at_once(client: Client) -> Client:
    """It replies at once, and what it sends passes."""
    return replace(client, seconds=0.0)


def claims(claim: Callable[[int], tuple[float, float]]) -> Callable[[Client], Client]:
    return lambda client: replace(client, claim=claim)


LIES: dict[str, Callable[[Client], Client]] = {
    "huge loss": claims(lambda number: (100.0, 1e30)),
    "infinite loss": claims(lambda number: (100.0, float("inf"))),
    "many examples": claims(lambda number: (1e12, 1.0)),
    "both": claims(lambda number: (1e300, 1e300)),
    "a little more than others": claims(lambda number: (150.0, 2.0 / number**0.5)),
    "tiny loss": claims(lambda number: (100.0, 1e-30)),
    "negative loss": claims(lambda number: (100.0, -1e30)),
    "nan": claims(lambda number: (float("nan"), float("nan"))),
    "tiny, then huge": claims(lambda number: (100.0, 1e-9 if number < 30 else 1e9)),
    "by turns": claims(lambda number: (100.0, 1e9 if number % 2 else 1e-9)),
    "at once": at_once,
    "at once, with a huge loss": lambda client: LIES["both"](at_once(client)),
    "slow, to stop the others": lambda client: replace(LIES["both"](client), seconds=1e4),
    "garbage at once": lambda client: replace(at_once(client), fails=lambda number: True),
    "garbage now and then": lambda client: replace(
        LIES["both"](at_once(client)), fails=lambda number: number % 3 == 0
    ),
}


@pytest.mark.parametrize("attackers", [1, 3])
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", NAMES)
def test_liars_are_chosen_as_often_as_is_fair(name: str, lie: str, attackers: int) -> None:
    """At most 1.2 times their fair share, by the mean over seeds, and honest ones do not starve."""
    gained, least = [], []
    for seed, drop_out in enumerate((0.0, 0.1)):
        clients = log_uniform_clients(10, seed)
        clients[:attackers] = [LIES[lie](client) for client in clients[:attackers]]
        selector = SELECTORS.build({"name": name, "fraction": 0.3})
        shares = Rounds(selector, clients, seed, drop_out).run(50).fair_shares()
        gained.append(shares[:attackers].mean())
        least.append(shares[attackers:].min())
    assert np.mean(gained) <= 1.2
    assert min(least) >= 1 / 3


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", NAMES)
def test_at_other_fractions(name: str, fraction: float) -> None:
    clients = log_uniform_clients(20)
    clients[:6] = [LIES["at once, with a huge loss"](client) for client in clients[:6]]
    selector = SELECTORS.build({"name": name, "fraction": fraction})
    shares = Rounds(selector, clients, drop_out=0.1).run(100).fair_shares()
    assert shares[:6].mean() <= 1.2
    assert shares.min() >= 1 / 3


@pytest.mark.parametrize("name", ["adaptive", "oort"])
def test_rejected_replies_cost_turns(name: str) -> None:
    """Who sends garbage is chosen less than the others, however fast."""
    clients = log_uniform_clients(10)
    clients[:3] = [LIES["garbage at once"](client) for client in clients[:3]]
    selector = SELECTORS.build({"name": name, "fraction": 0.3})
    assert Rounds(selector, clients).run(60).fair_shares()[:3].max() <= 0.7


def test_the_working_replace_those_that_fail() -> None:
    """The ceiling holds among clients that work: it does not keep rounds without an update."""
    clients = [Client(fails=lambda number: True) for _ in range(10)]
    clients[8:] = [Client(), Client()]
    rounds = Rounds(SELECTORS.build({"name": "adaptive", "fraction": 0.3}), clients).run(60)
    assert rounds.fair_shares()[8:].min() >= 2.0
    assert all({8, 9} & set(chosen) for chosen in rounds.chosen[15:])


def test_bounded_claims() -> None:
    honest = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    for lie in (1e300, 1e9, 8.0, 0.0, -1e9):
        bounded = bounded_claims(np.append(honest, [lie] * 3))
        assert honest.min() - 6 <= bounded.min()
        assert bounded.max() <= honest.max() + 6
    assert bounded_claims(np.array([np.nan, 3.0, 3.0])).tolist() == [3.0, 3.0, 3.0]
    assert bounded_claims(np.array([np.nan])).tolist() == [0.0]
    assert bounded_claims(np.array([])).tolist() == []
