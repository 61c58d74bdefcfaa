"""The histories of a round's candidates as columns, with every value made finite or unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from hqde_fl.selection.base import Candidates
from hqde_fl.selection.history import LOAD_DECAY

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LARGEST = 1e100
"""Largest size of a number: greater ones, infinities too, are taken as it."""
SMALLEST_SECONDS = 1e-9
"""Least seconds of a reply."""


_VALUES = attrgetter(
    "last_selected", "success_rate", "seconds", "load", "host_load", "examples", "loss"
)


@dataclass(frozen=True, eq=False)
class HistoryColumns:
    """One entry for each candidate, in their order.

    Parameters
    ----------
    last_selected : array of floats
        The last round in which the client was selected; 0 if there was none.
    success : array of floats
        Its success rate, in [0, 1].
    seconds : array of floats
        Its seconds for all of its training, > 0; nan if unknown.
    load : array of floats
        The greater of its load in this round and its machine's load, in [0, 1].
    examples, loss : array of floats
        What it claims; nan if unknown.
    """

    last_selected: Floats
    success: Floats
    seconds: Floats
    load: Floats
    examples: Floats
    loss: Floats

    @classmethod
    def of(cls, candidates: Candidates) -> HistoryColumns:
        """Return the columns of a round's candidates."""
        rows = list(map(_VALUES, map(candidates.of, candidates.ids)))
        columns: list[Floats] = list(_floats(rows).T)
        last, success, seconds, load, host_load, examples, loss = columns
        last = np.nan_to_num(last)
        idle = np.maximum(0.0, float(candidates.round) - last)
        load = np.nan_to_num(load, nan=1.0) * LOAD_DECAY**idle
        host_load = np.nan_to_num(host_load, nan=1.0)
        seconds = np.where(seconds >= 0, np.maximum(seconds, SMALLEST_SECONDS), np.nan)
        return cls(
            last_selected=last,
            success=np.clip(np.nan_to_num(success), 0.0, 1.0),
            seconds=seconds,
            load=np.clip(np.maximum(load, host_load), 0.0, 1.0),
            examples=np.where(examples >= 0, examples, np.nan),
            loss=loss,
        )

    def pace(self, quantile: float = 0.5) -> float:
        """Return a quantile of the known seconds; infinity if none is known.

        Clients that reply at once cannot move it to their own seconds while they are a smaller part
        than the quantile.
        """
        known = self.seconds[~np.isnan(self.seconds)]
        return float(np.quantile(known, quantile)) if len(known) else float("inf")


def filled(values: Floats, default: float) -> Floats:
    """Return the values, with a default in place of unknown ones."""
    return np.where(np.isnan(values), default, values)


def _floats(rows: Sequence[tuple[object, ...]]) -> Floats:
    """Return a table of finite floats, with nan for None."""
    try:
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 7)
    except OverflowError:  # a whole number beyond the floats
        capped = [[_capped(value) for value in row] for row in rows]
        table = np.array(capped, dtype=np.float64)
    return np.clip(table, -LARGEST, LARGEST)


def _capped(value: object) -> object:
    return max(-LARGEST, min(LARGEST, value)) if isinstance(value, int) else value
