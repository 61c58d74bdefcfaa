"""Hostile replies with arrays of the right shape, but impossible or harmful values."""

from __future__ import annotations

from functools import partial

import numpy as np
from flwr.app import Array

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.message_changes import (
    MEAN,
    VARIANCE,
    Values,
    with_array,
    with_float_arrays,
    with_weight,
)

NON_FINITE = "rejected: non-finite update"


def _one_nan(values: Values) -> Values:
    values = values.copy()
    values[1, 1] = np.nan
    return values


def _one_off(values: Values) -> Values:
    values = values.copy()
    values[1, 1] += 1e6
    return values


def _filled(honest: Array, value: float) -> Array:
    return Array(np.full(honest.shape, value, np.float32))


def _one_negative(honest: Array) -> Array:
    values = honest.numpy().copy()
    values[2] = -0.5
    return Array(values)


def _alternating(values: Values) -> Values:
    """Return the largest floats in alternating sign: their sum is 0, their norm overflows."""
    signs = np.where(np.arange(values.size) % 2, 1, -1).reshape(values.shape)
    return (signs * np.finfo(np.float32).max).astype(np.float32)


ROWS = (
    CatalogueRow("one-nan", "sends one NaN", NON_FINITE, with_weight(_one_nan)),
    CatalogueRow(
        "all-nan",
        "sends NaN only",
        NON_FINITE,
        with_float_arrays(lambda v: np.full_like(v, np.nan)),
    ),
    CatalogueRow(
        "infinity", "sends infinity", NON_FINITE, with_weight(lambda v: np.full_like(v, np.inf))
    ),
    CatalogueRow(
        "minus-infinity", "sends minus infinity", NON_FINITE, with_weight(lambda v: v - np.inf)
    ),
    CatalogueRow(
        "both-infinities",
        "sends both infinities",
        NON_FINITE,
        with_weight(lambda v: np.where(v % 2, -np.inf, np.inf).astype(np.float32)),
    ),
    CatalogueRow(
        "1e30", "sends 1e30 everywhere", "", with_float_arrays(lambda v: np.full_like(v, 1e30))
    ),
    CatalogueRow("largest-floats", "sends the largest floats", "", with_float_arrays(_alternating)),
    CatalogueRow(
        "ten-times-backwards",
        "sends the weights times -10",
        "",
        with_float_arrays(lambda v: -10 * v),
    ),
    CatalogueRow(
        "a-thousand-off", "adds 1,000 to every weight", "", with_float_arrays(lambda v: v + 1000)
    ),
    CatalogueRow("one-weight-off", "adds 1e6 to one weight", "", with_weight(_one_off)),
    CatalogueRow("zeros", "sends zeros", "", with_float_arrays(np.zeros_like)),
    CatalogueRow(
        "negative-zeros",
        "sends negative zeros",
        "",
        with_float_arrays(lambda v: np.full_like(v, -0.0)),
    ),
    CatalogueRow(
        "denormals",
        "sends the smallest floats",
        "",
        with_float_arrays(lambda v: np.full_like(v, 1e-45)),
    ),
    CatalogueRow(
        "negative-variance",
        "sends one negative running variance",
        f"rejected: negative variance in {VARIANCE!r}",
        with_array(VARIANCE, _one_negative),
    ),
    CatalogueRow(
        "nan-statistics",
        "sends NaN for running variances",
        f"rejected: non-finite {VARIANCE!r}",
        with_array(VARIANCE, partial(_filled, value=np.nan)),
    ),
    CatalogueRow(
        "infinite-statistics",
        "sends infinity for running means",
        f"rejected: non-finite {MEAN!r}",
        with_array(MEAN, partial(_filled, value=np.inf)),
    ),
    CatalogueRow(
        "huge-variance",
        "sends honest weights, and 1e6 for running variances",
        "",
        with_array(VARIANCE, partial(_filled, value=1e6)),
    ),
)
