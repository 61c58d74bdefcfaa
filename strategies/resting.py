"""Clients without data rest: they are not asked again for some rounds, or until they reconnect."""

from __future__ import annotations

from collections.abc import Collection, Mapping

REST_ROUNDS = 10
"""A client that has no data in round r is asked again in round r + REST_ROUNDS."""

Resting = Mapping[int, int]
"""Client, as rules know it -> the round in which it is asked again."""


def still_resting(resting: Resting, server_round: int, reconnected: Collection[int]) -> Resting:
    """Return the clients that are not asked in a round.

    Parameters
    ----------
    resting : Resting
        After the round before.
    server_round : int
        The round.
    reconnected : Collection[int]
        Clients that have reconnected since: they may have got data.
    """
    return {
        client: until
        for client, until in resting.items()
        if until > server_round and client not in reconnected
    }


def put_to_rest(resting: Resting, server_round: int, skipped: Collection[int]) -> Resting:
    """Return the resting clients after a round in which some more said that they have no data."""
    until = server_round + REST_ROUNDS
    return {**resting, **dict.fromkeys(sorted(skipped), until)}
