"""Bounds on what clients claim of themselves, by what most of them claim."""

from __future__ import annotations

import numpy as np

from hqde_fl.selection.history_columns import Floats

DEVIATIONS = 2.0
"""Typical deviations from the median beyond which a claim counts no more."""


def bounded_claims(values: Floats) -> Floats:
    """Return each claim, at most two typical deviations from the median; the median if unknown.

    The typical deviation is the median distance to the median. As long as less than half of the
    clients lie, however they agree, both lie between numbers that honest clients claim, and a
    greater lie gains nothing.

    Parameters
    ----------
    values : array of floats
        The claims; nan for unknown ones.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros_like(values)
    median = float(np.quantile(known, 0.5, method="lower"))
    spread = DEVIATIONS * float(np.quantile(np.abs(known - median), 0.5, method="lower"))
    return np.clip(np.where(np.isnan(values), median, values), median - spread, median + spread)
