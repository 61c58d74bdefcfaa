"""The longest push along a line that a rule does not hold against colluding attackers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.rules import RULES, Aggregator, aggregate
from hqde_fl.rules.results import State
from hqde_fl.simulations.attacks.base import AttackerKnowledge
from hqde_fl.updates import Columns, StackedColumns

SEARCH_RANGE = 100.0
"""Ratio of the largest push to the smallest on the grid of the search."""


def check_detector(where: str, name: str) -> None:
    """Raise ``ConfigError`` if a name is neither empty nor that of a rule without parameters.

    ``where`` is the parameter's name, for the error message.
    """
    if not name:
        return
    try:
        rule = RULES.build(name)
    except ConfigError as error:
        raise ConfigError(f"{where} must be '' or the name of a rule: {error}") from error
    if rule.is_preaggregation or rule.confidence_from:
        raise ConfigError(f"{where} must be a rule that judges by the updates alone, found {rule}")


def evades(
    rows: Tensor,
    honest: Columns,
    knowledge: AttackerKnowledge,
    detector: tuple[Aggregator, State],
    share: float,
) -> bool:
    """Return True if a rule holds nothing against the attackers.

    It filters none of them, and their influence is at least ``share`` of what it would be if all
    clients had the same. A rule that cannot run on the updates detects nobody.

    Parameters
    ----------
    rows : Tensor
        (f, d) the attackers' updates.
    honest : Columns
        (h, d) honest updates.
    knowledge : AttackerKnowledge
        The clients.
    detector : tuple[Aggregator, State]
        The rule and its state.
    share : float
        Least influence of the attackers, relative to that of equal influence.
    """
    rule, state = detector
    cohort, order = knowledge.cohort()
    updates = StackedColumns(honest, tuple(rows)).select(order)
    try:
        outcome = aggregate(rule, updates, cohort, state)
    except BoundError:
        return True
    h, n = honest.shape[0], len(order)
    theirs = torch.tensor([row >= h for row in order])
    if bool(outcome.filtered[theirs].any()):
        return False
    influence = float(outcome.influence[theirs].sum())
    return influence >= share * len(rows) / n


def largest_evading(evaded: Callable[[float], bool], limit: float, tries: int) -> float:
    """Return the largest push found in [0, limit] that evades detection; 0 if none does.

    Two thirds of the tries are on a geometric grid, from ``limit`` downwards until one evades; the
    rest bisect between it and the next larger one. A rule need not be monotone, so that a larger
    push may evade between two of the grid.

    Parameters
    ----------
    evaded : Callable[[float], bool]
        Tells whether a push evades detection.
    limit : float
        The largest push, >= 0.
    tries : int
        Number of tries, >= 3.
    """
    steps = max(2, 2 * tries // 3)
    ratio: float = SEARCH_RANGE ** (1 / (steps - 1))
    low, high = 0.0, 0.0
    for k in range(steps):
        push = limit / ratio**k
        if evaded(push):
            low = push
            break
        high = push
    if low == limit:
        return limit
    for _ in range(tries - steps):
        middle = (low + high) / 2
        low, high = (middle, high) if evaded(middle) else (low, middle)
    return low
