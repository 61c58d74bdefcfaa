"""Schedules of learning rates against their formulas, and bounds."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.errors import ConfigError
from hqde_fl.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Linear,
    MultiStep,
    Schedule,
    Step,
    WarmUp,
    scheduled_rate,
)
from hqde_fl.strategies.optimizer_schedule import ScheduledOptimizer
from hqde_fl.strategies.optimizers import SGD, Adam

CASES = {
    "constant": (Constant(), [1, 1, 1, 1, 1, 1]),
    "step": (Step(every=2, gamma=0.5), [1, 1, 0.5, 0.5, 0.25, 0.25]),
    "multi-step": (MultiStep((1, 4), gamma=0.1), [1, 0.1, 0.1, 0.1, 0.01, 0.01]),
    "linear": (Linear(rounds=4, end=0.2), [1, 0.8, 0.6, 0.4, 0.2, 0.2]),
    "cosine": (
        Cosine(rounds=4, end=0.5),
        [0.5 + 0.25 * (1 + math.cos(math.pi * t / 4)) for t in (0, 1, 2, 3, 4, 4)],
    ),
    "warm-up": (WarmUp(2, then=Step(every=1, gamma=0.5)), [0.5, 1, 1, 0.5, 0.25, 0.125]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_gives_the_factors_of_its_formula_and_has_its_name(name):
    schedule, factors = CASES[name]
    assert [schedule.factor(number) for number in range(1, 7)] == pytest.approx(factors)
    assert SCHEDULES.name_of(schedule) == name


def test_each_name_of_the_catalogue_has_a_case():
    assert set(SCHEDULES) == CASES.keys()


def test_a_table_may_hold_a_schedule_that_follows_a_warm_up():
    table = {"name": "warm-up", "rounds": 3, "then": {"name": "cosine", "rounds": 7}}
    assert SCHEDULES.build(table) == WarmUp(3, then=Cosine(7))


@given(st.integers(1, 50), st.floats(0, 1), st.integers(1, 200))
def test_factors_stay_between_the_end_and_one(rounds, end, number):
    for schedule in (Cosine(rounds, end), Linear(rounds, end), WarmUp(rounds, end)):
        assert end - 1e-12 <= schedule.factor(number) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Step(every=0), "every finite and >= 1, found 0"),
        (lambda: MultiStep(()), "ascending rounds >= 1"),
        (lambda: MultiStep((3, 2)), "ascending rounds >= 1"),
        (lambda: Cosine(rounds=5, end=2.0), r"end in \[0, 1\], found 2.0"),
        (lambda: WarmUp(rounds=0), "rounds finite and >= 1"),
        (lambda: Linear(rounds=3, end=math.nan), "end finite and >= 0"),
    ],
)
def test_a_parameter_out_of_its_bound_is_named(build, text):
    with pytest.raises(ConfigError, match=text):
        build()


@dataclass(frozen=True)
class Negative(Schedule):
    """A schedule of the user's own that is wrong."""

    def factor(self, number: int) -> float:
        return -1.0


def test_a_factor_below_zero_is_an_error_that_names_the_schedule():
    with pytest.raises(ConfigError, match=r"Negative\(\).factor\(2\) must be finite and >= 0"):
        scheduled_rate(0.1, Negative(), 2)


@pytest.mark.parametrize("inner", [SGD(lr=0.5, momentum=0.9), Adam()])
def test_the_server_optimizer_of_a_schedule_is_one_whose_rate_is_set_in_each_step(inner):
    schedule, moments, own = Step(every=1, gamma=0.5), {}, {}
    optimizer = ScheduledOptimizer(schedule, inner)
    for number in range(1, 5):
        delta = torch.randn(7, generator=torch.Generator().manual_seed(number))
        expected, own = inner.step(delta, own)
        step, moments = optimizer.step(delta, moments)
        torch.testing.assert_close(step, schedule.factor(number) * expected)
