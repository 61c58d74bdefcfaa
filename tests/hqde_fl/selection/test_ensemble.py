"""Who trains which members."""

from collections import Counter
from dataclasses import replace

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble

SEEDS = Seeds(3)


def counts(ensemble, clients, server_round):
    """Clients of each member."""
    shares = [ensemble.share(client, server_round, SEEDS) for client in range(clients)]
    assert all(
        len(set(share)) == ensemble.each and share == tuple(sorted(share)) for share in shares
    )
    found = Counter(member for share in shares for member in share)
    return [found[member] for member in range(ensemble.members)]


def test_one_member_is_everybodys():
    assert Ensemble().share(7, 1, SEEDS) == (0,)
    assert Ensemble(4).share(7, 9, SEEDS) == (0, 1, 2, 3)


@pytest.mark.parametrize("members", [2, 3, 5, 8])
def test_round_robin_deals_evenly_and_everybody_gets_to_everything(members):
    for each in range(1, members + 1):
        ensemble = Ensemble(members, "round-robin", each)
        for clients in (1, 4, 7, 20):
            for number in (1, 2, 9):
                found = counts(ensemble, clients, number)
                assert max(found) - min(found) <= 1
                assert min(found) == ensemble.cohort(clients)
        for client in (0, 3, 2**63 + 5):
            held = {m for r in range(1, members + 1) for m in ensemble.share(client, r, SEEDS)}
            assert held == set(range(members))


def test_random_shares_depend_on_seed_client_and_round_alone():
    ensemble = Ensemble(5, "random", 2)
    shares = {(c, r): ensemble.share(c, r, SEEDS) for c in range(40) for r in range(1, 6)}
    again = {key: ensemble.share(*key, SEEDS) for key in reversed(shares)}
    assert again == shares
    assert {k: ensemble.share(*k, Seeds(4)) for k in shares} != shares
    found = Counter(member for share in shares.values() for member in share)
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
