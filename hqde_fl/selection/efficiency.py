"""A client's efficiency: what the server measured of its speed and of its success."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from hqde_fl.selection.history import ClientHistory

MAX_CLAIM = 4.0
"""A client's number of examples, which it claims, counts as at most this many times the median of
all, and as at least the median over this. A client of average speed and size that claims more gets
an efficiency of at most 4 / 5 instead of 1 / 2, and none ever has more than 1."""


def efficiencies(histories: Sequence[ClientHistory]) -> tuple[float, ...]:
    """Return each client's efficiency, in [0, 1]: its success rate times its relative speed.

    The relative speed is m / (m + t), where t is the client's time per example and m the median of
    these times: 1 / 2 for an average client, towards 1 for a very fast one, towards 0 for a very
    slow one. A client whose time is not known has an average speed. A client that was never
    selected has the median efficiency of the others, or 1 / 2 if there are no others.

    Parameters
    ----------
    histories : Sequence[ClientHistory]
        What was measured of each client before the round.
    """
    times = _seconds_per_example(histories)
    typical = median(known) if (known := [t for t in times if t is not None]) else 0.0
    scores = [
        history.success_rate * _relative_speed(time, typical) if history.selected else None
        for history, time in zip(histories, times, strict=True)
    ]
    new = median(seen) if (seen := [score for score in scores if score is not None]) else 0.5
    return tuple(new if score is None else score for score in scores)


def _seconds_per_example(histories: Sequence[ClientHistory]) -> list[float | None]:
    """Return each client's time per example, relative to others; None where it is not known."""
    claims = [history.examples for history in histories if history.examples]
    typical = median(claims) if claims else 1.0

    def examples(claim: float | None) -> float:
        """Return a claim relative to the typical one, which may be any number > 0."""
        relative = 1.0 if claim is None else claim / typical
        return min(max(relative, 1 / MAX_CLAIM), MAX_CLAIM)

    return [
        None if history.seconds is None else history.seconds / examples(history.examples)
        for history in histories
    ]


def _relative_speed(time: float | None, typical: float) -> float:
    if time is None or time == typical:
        return 0.5
    return typical / (typical + time)
