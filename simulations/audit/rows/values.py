"""Arrays of the right form with numbers that no honest client sends."""

from __future__ import annotations

import numpy as np

from hqde_fl.simulations.audit.row import Row
from hqde_fl.simulations.audit.tamper import Values, every, weight

NON_FINITE = "rejected: non-finite update"


def _one_nan(values: Values) -> Values:
    values = values.copy()
    values[1, 1] = np.nan
    return values


def _one_off(values: Values) -> Values:
    values = values.copy()
    values[1, 1] += 1e6
    return values


def _alternating(values: Values) -> Values:
    """The largest floats, whose sum is zero and the sum of whose squares is no float."""
    signs = np.where(np.arange(values.size) % 2, 1, -1).reshape(values.shape)
    return (signs * np.finfo(np.float32).max).astype(np.float32)


ROWS = (
    Row("one-nan", "sends one NaN", NON_FINITE, weight(_one_nan)),
    Row("all-nan", "sends NaN only", NON_FINITE, every(lambda v: np.full_like(v, np.nan))),
    Row("infinity", "sends infinity", NON_FINITE, weight(lambda v: np.full_like(v, np.inf))),
    Row("minus-infinity", "sends minus infinity", NON_FINITE, weight(lambda v: v - np.inf)),
    Row(
        "both-infinities",
        "sends both infinities",
        NON_FINITE,
        weight(lambda v: np.where(v % 2, -np.inf, np.inf).astype(np.float32)),
    ),
    Row("1e30", "sends 1e30 everywhere", "", every(lambda v: np.full_like(v, 1e30))),
    Row("largest-floats", "sends the largest floats", "", every(_alternating)),
    Row("ten-times-backwards", "sends the weights times -10", "", every(lambda v: -10 * v)),
    Row("a-thousand-off", "adds 1,000 to every weight", "", every(lambda v: v + 1000)),
    Row("one-weight-off", "adds 1e6 to one weight", "", weight(_one_off)),
    Row("zeros", "sends zeros", "", every(np.zeros_like)),
    Row("negative-zeros", "sends negative zeros", "", every(lambda v: np.full_like(v, -0.0))),
    Row("denormals", "sends the smallest floats", "", every(lambda v: np.full_like(v, 1e-45))),
)
