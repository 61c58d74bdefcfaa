"""Early stopping depends on the values alone: against a plain loop, resumed at any round."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.strategies.stopping import EarlyStopping, Stopping

VALUES = st.lists(st.one_of(st.sampled_from([0.1, 0.5, 0.9]), st.none()), max_size=12)


def followed(values: list[float | None], settings: Stopping, higher: bool) -> EarlyStopping:
    stopping = EarlyStopping("m", higher, settings)
    for number, value in enumerate(values):
        stopping.observe(number, {"m": value})
    return stopping


@given(VALUES, st.integers(1, 4), st.booleans())
def test_patience_against_a_plain_loop(
    values: list[float | None], patience: int, higher: bool
) -> None:
    sign, best, best_round, waited = (1 if higher else -1), None, None, 0
    for number, value in enumerate(values):
        if value is not None and (best is None or sign * value > sign * best):
            best, best_round, waited = value, number, 0
        else:
            waited += 1
        if waited == patience:
            break
    stopping = followed(values, Stopping(patience), higher)
    assert (stopping.best, stopping.best_round) == (best, best_round)
    assert bool(stopping.reason) == (waited >= patience)


@given(VALUES, st.integers(0, 12))
def test_resumed_equals_uninterrupted(values: list[float | None], seen: int) -> None:
    whole = followed(values, Stopping(2, 0.05, 0.9), True)
    resumed = followed(values[:seen], Stopping(2, 0.05, 0.9), True)
    for number, value in enumerate(values):
        resumed.observe(number, {"m": value})  # those that it has seen change nothing
    assert (resumed.best, resumed.best_round, resumed.reason) == (
        whole.best,
        whole.best_round,
        whole.reason,
    )


def test_target_min_delta_and_rounds_without_metrics() -> None:
    stopping = EarlyStopping("m", False, Stopping(2, min_delta=0.5, target=1.0))
    for number, metrics in enumerate([{"m": 3.0}, {}, {"m": 2.8}, {}]):
        stopping.observe(number, metrics)
    assert (stopping.best_round, stopping.reason) == (2, "")
    stopping.observe(4, {"m": 2.7})
    assert "did not improve in 2 evaluations until round 4" in stopping.reason
    assert "reached 1 in round 0" in followed([0.5], Stopping(target=1.0), False).reason
    assert followed([math.nan, math.inf], Stopping(3), True).best is None


def test_errors_name_parameter_and_bound() -> None:
    with pytest.raises(ConfigError, match=r"stopping\.patience must be >= 0, found -1"):
        Stopping(-1)
    with pytest.raises(ConfigError, match="min-delta must be finite and >= 0, found nan"):
        Stopping(min_delta=math.nan)
    with pytest.raises(UnknownNameError, match="metric of early stopping"):
        EarlyStopping("m", True).observe(0, {"loss": 1.0})
