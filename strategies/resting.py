"""Clients without data rest: they get no message for some rounds, or until they reconnect."""

from __future__ import annotations

from collections.abc import Collection, Mapping

REST_ROUNDS = 10
"""A client without data in round r may be selected again in round r + REST_ROUNDS."""

Resting = Mapping[int, int]
"""Client, by the id that rules know -> the round from which it may be selected again."""


def resting_clients(resting: Resting, server_round: int, reconnected: Collection[int]) -> Resting:
    """Return the clients that rest in a round, and the round from which each may be selected.

    A client no longer rests from that round on, or if it has reconnected.

    Parameters
    ----------
    resting : Resting
        The clients that rested after the round before.
    server_round : int
        The round.
    reconnected : Collection[int]
        Clients that have reconnected since: they may have data now.
    """
    return {
        client: until
        for client, until in resting.items()
        if until > server_round and client not in reconnected
    }


def add_resting(resting: Resting, server_round: int, skipped: Collection[int]) -> Resting:
    """Return the resting clients after a round: those of before, and those without data.

    The latter may be selected again in round ``server_round + REST_ROUNDS``.

    Parameters
    ----------
    resting : Resting
        The clients that rested in the round.
    server_round : int
        The round.
    skipped : Collection[int]
        Clients that reported in the round to have no data.
    """
    until = server_round + REST_ROUNDS
    return {**resting, **dict.fromkeys(sorted(skipped), until)}
