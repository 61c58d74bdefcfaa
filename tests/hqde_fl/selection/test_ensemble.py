"""Assignment of members to clients."""

from collections import Counter
from dataclasses import replace

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble

SEEDS = Seeds(3)


def counts(ensemble, clients, server_round):
    """Return the number of clients of each member."""
    assigned = [ensemble.assigned_members(client, server_round, SEEDS) for client in range(clients)]
    assert all(
        len(set(share)) == ensemble.trained_members and share == tuple(sorted(share))
        for share in assigned
    )
    found = Counter(member for share in assigned for member in share)
    return [found[member] for member in range(ensemble.members)]


def test_every_client_trains_a_single_member():
    assert Ensemble().assigned_members(7, 1, SEEDS) == (0,)
    assert Ensemble(4).assigned_members(7, 9, SEEDS) == (0, 1, 2, 3)


@pytest.mark.parametrize("members", [2, 3, 5, 8])
def test_round_robin_is_even_and_every_client_trains_every_member(members):
    for each in range(1, members + 1):
        ensemble = Ensemble(members, "round-robin", each)
        for clients in (1, 4, 7, 20):
            for number in (1, 2, 9):
                found = counts(ensemble, clients, number)
                assert max(found) - min(found) <= 1
                assert min(found) == ensemble.min_cohort(clients)
        for client in (0, 3, 2**63 + 5):
            held = {
                m
                for r in range(1, members + 1)
                for m in ensemble.assigned_members(client, r, SEEDS)
            }
            assert held == set(range(members))


def test_random_assignment_depends_on_seed_client_and_round_alone():
    ensemble = Ensemble(5, "random", 2)
    assigned = {
        (c, r): ensemble.assigned_members(c, r, SEEDS) for c in range(40) for r in range(1, 6)
    }
    again = {key: ensemble.assigned_members(*key, SEEDS) for key in reversed(assigned)}
    assert again == assigned
    assert {k: ensemble.assigned_members(*k, Seeds(4)) for k in assigned} != assigned
    found = Counter(member for share in assigned.values() for member in share)
    assert sum(found.values()) == 400
    assert all(50 < found[member] < 110 for member in range(5))  # 80 each on average


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 0}, "members must be >= 1, found 0"),
        (
            {"members_per_client": 4},
            r"Ensemble.members_per_client must be in \[0, members = 3\], found 4",
        ),
        ({"members_per_client": -1}, r"Ensemble.members_per_client must be in .*, found -1"),
        ({"assignment": "all", "members_per_client": 2}, r"members = 3 \(or 0\) with assignment"),
        ({"assignment": "some"}, "assignment must be among all, round-robin, random, found 'some'"),
        ({"mode": "none"}, "mode must be among independent, fedavg, found 'none'"),
    ],
)
def test_impossible_ensembles_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(Ensemble(3, "random"), **change)
