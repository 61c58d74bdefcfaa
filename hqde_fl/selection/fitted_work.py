"""The parts of their local training that clients do so that a round lasts as long as it should."""

from __future__ import annotations

from collections.abc import Sequence

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import WORK_LEVELS, Candidates
from hqde_fl.selection.history_columns import Floats

MARGIN = 0.9
"""Part of the deadline that is planned with, as a client may take longer than last time."""


def fitted_work(
    candidates: Candidates, seconds: Floats, chosen: Sequence[int], round_seconds: float
) -> dict[int, float]:
    """Return client -> the part of its training that fits, of those for which it does not all fit.

    The server has measured how long each client needs for all of it. A client whose seconds are not
    known does all of it.

    Parameters
    ----------
    candidates : Candidates
        The round's candidates; its ``deadline`` bounds the round, too.
    seconds : array of floats
        Each candidate's seconds for all of its training; nan if unknown.
    chosen : Sequence[int]
        Positions of the chosen candidates.
    round_seconds : float
        Seconds that the round should last; 0 if all clients do all of their training.
    """
    if round_seconds == 0:
        return {}
    limit = min(round_seconds, MARGIN * candidates.deadline)
    parts = {place: max(limit / float(seconds[place]), 1 / WORK_LEVELS) for place in chosen}
    return {candidates.ids[place]: part for place, part in parts.items() if part < 1}


def check_round_seconds(owner: str, round_seconds: float) -> None:
    """Raise ``ConfigError`` unless a selector's seconds of a round are at least 0."""
    if not round_seconds >= 0:
        raise ConfigError(f"{owner}.round_seconds must be >= 0, found {round_seconds}")
