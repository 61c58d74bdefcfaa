"""The parts of their local training that clients do so that a round lasts as long as it should."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import WORK_LEVELS, Candidates
from hqde_fl.selection.history_columns import HistoryColumns, filled

TRIAL = 0.5
"""Part of its training that a client does whose seconds are not known."""
MARGIN = 0.9
"""Part of the deadline that is planned with, as a client may take longer than last time."""


def fitted_work(
    candidates: Candidates,
    columns: HistoryColumns,
    chosen: Sequence[int],
    round_seconds: float,
    pace: float,
) -> dict[int, float]:
    """Return client -> the part of its training that fits, of those for which it does not all fit.

    The server has measured how long each client needs for all of it. The part that fits into the
    round is rounded, so that a client does all of it that needs a little longer; the part that fits
    into the deadline is not.

    Parameters
    ----------
    candidates : Candidates
        The round's candidates; its ``deadline`` bounds the round, too.
    columns : HistoryColumns
        Their histories.
    chosen : Sequence[int]
        Positions of the chosen candidates.
    round_seconds : float
        Seconds that the round should last: 0: the pace; infinity: as long as clients need.
    pace : float
        Seconds that a typical client needs for all of its training.
    """
    seconds = columns.seconds[chosen]
    fitting = (round_seconds or pace) / seconds
    parts = np.maximum(np.round(fitting * WORK_LEVELS), 1.0) / WORK_LEVELS
    in_time = np.maximum(MARGIN * candidates.deadline / seconds, 1 / WORK_LEVELS)
    is_bounded = math.isfinite(min(round_seconds, candidates.deadline))
    trial = TRIAL if is_bounded else 1.0
    parts = filled(np.minimum(parts, in_time), trial).tolist()
    return {
        candidates.ids[place]: part for place, part in zip(chosen, parts, strict=True) if part < 1
    }


def check_round_seconds(owner: str, round_seconds: float) -> None:
    """Raise ``ConfigError`` unless a selector's seconds of a round are a number >= 0."""
    if not round_seconds >= 0:
        raise ConfigError(f"{owner}.round_seconds must be >= 0, found {round_seconds}")
