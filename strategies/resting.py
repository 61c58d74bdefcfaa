"""Clients without data rest: they get no message for some rounds, or until they reconnect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from hqde_fl.errors import TaskError
from hqde_fl.selection import Selector

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


def select_awake(
    selector: Selector, nodes: Sequence[int], resting: Collection[int], rng: np.random.Generator
) -> list[int]:
    """Select from the nodes that do not rest, as many as would be selected from all nodes.

    Fewer if too few are left; none if all nodes rest.

    Parameters
    ----------
    selector : Selector
        Chooses the nodes.
    nodes : Sequence[int]
        All connected nodes.
    resting : Collection[int]
        Those of them that rest.
    rng : np.random.Generator
        Source of the selector's random numbers.

    Raises
    ------
    TaskError
        If the selector returns others than these nodes, or one twice.
    """
    awake = [node for node in nodes if node not in resting]
    if not awake:
        return []
    size = selector.size(len(nodes)) if resting else None
    chosen = selector.select(awake, rng, size)
    if not isinstance(chosen, list) or not set(chosen) <= set(awake):
        raise TaskError(f"{selector}.select must return a list of the clients it is given")
    if len(set(chosen)) < len(chosen):
        raise TaskError(f"{selector}.select must return each client once, found one twice")
    return chosen
