"""What clients report, put together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hqde_fl.strategies.metrics import spread_metrics


def test_the_spread_is_over_the_clients_that_report_a_metric() -> None:
    reported = [
        {"eval-accuracy": 0.5, "num-examples": 3.0},
        {"eval-accuracy": 0.9, "num-examples": 4.0, "eval-own": 1.0},
        {"eval-accuracy": 0.7},
    ]
    assert spread_metrics(reported) == {
        "eval-accuracy-min": 0.5,
        "eval-accuracy-max": 0.9,
        "eval-accuracy-variance": pytest.approx(np.var([0.5, 0.9, 0.7])),
    }


def test_one_client_has_no_spread_and_a_value_that_is_not_finite_no_variance() -> None:
    assert spread_metrics([{"eval-loss": 1.0}]) == {}
    found = spread_metrics([{"eval-loss": 1.0}, {"eval-loss": math.inf}])
    assert math.isnan(found["eval-loss-variance"])
