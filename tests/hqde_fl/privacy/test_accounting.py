"""Accountants agree with published figures, with each other and with the closed form."""

from __future__ import annotations

import math
import sys

import pytest
from scipy.stats import norm

from hqde_fl.errors import ConfigError
from hqde_fl.privacy import Accountant, Sampling
from hqde_fl.selection import Oort, Poisson, RoundRobin, Uniform

TENTH = Sampling(poisson=True, expected=100, clients=1000)
ALL = Sampling(poisson=True, expected=10, clients=10)
DELTA = 1e-5


def exact_delta(mu: float, epsilon: float) -> float:
    """Return the delta of a Gaussian mechanism (Balle and Wang, 2018, theorem 8)."""
    return float(
        norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    )


def test_renyi_calibration_gives_the_known_multiplier() -> None:
    accountant = Accountant("rdp", TENTH, DELTA)
    multiplier = accountant.multiplier(8.0, 100)
    assert multiplier == pytest.approx(0.994, abs=1e-3)
    assert 7.99 < accountant.epsilon(multiplier, 100) <= 8.0


def test_privacy_loss_distributions_give_the_known_multiplier() -> None:
    assert Accountant("pld", TENTH, DELTA).epsilon(0.936, 100) == pytest.approx(8.0, abs=5e-3)


@pytest.mark.slow
def test_privacy_loss_calibration_meets_its_target_with_less_noise() -> None:
    half = Sampling(poisson=True, expected=5, clients=10)
    pld, rdp = Accountant("pld", half, 1e-2), Accountant("rdp", half, 1e-2)
    multiplier = pld.multiplier(0.2, 1)
    assert 0.19 < pld.epsilon(multiplier, 1) <= 0.2
    assert multiplier < rdp.multiplier(0.2, 1)


@pytest.mark.parametrize("rounds", [1, 7])
@pytest.mark.parametrize("poisson", [True, False], ids=["add or remove", "replace"])
def test_without_sampling_epsilon_is_that_of_the_closed_form(poisson: bool, rounds: int) -> None:
    sampling = Sampling(poisson, expected=10, clients=10)
    epsilon = Accountant("pld", sampling, DELTA).epsilon(3.0, rounds)
    mu = (1 if poisson else 2) * math.sqrt(rounds) / 3.0
    assert exact_delta(mu, epsilon) == pytest.approx(DELTA, rel=1e-6)
    assert Accountant("rdp", sampling, DELTA).epsilon(3.0, rounds) >= epsilon


def test_replacing_a_client_costs_what_half_the_noise_does() -> None:
    replaced = Accountant("pld", Sampling(False, expected=10, clients=10), DELTA)
    added = Accountant("pld", ALL, DELTA)
    assert replaced.epsilon(2.0, 5) == pytest.approx(added.epsilon(1.0, 5))


def test_a_sample_of_fixed_size_amplifies() -> None:
    accountant = Accountant("rdp", Sampling(False, expected=100, clients=1000), DELTA)
    everyone = Accountant("rdp", Sampling(False, expected=1000, clients=1000), DELTA)
    assert accountant.epsilon(4.0, 10) < everyone.epsilon(4.0, 10)


def test_a_round_released_twice_costs_as_with_less_noise() -> None:
    accountant = Accountant("rdp", TENTH, DELTA)
    twice = accountant.epsilon(2.0, {1: 2})
    assert twice == accountant.epsilon(2.0 / math.sqrt(2), {1: 1})
    assert twice > accountant.epsilon(2.0, {1: 1, 2: 1}) > accountant.epsilon(2.0, {1: 1})


def test_nothing_released_costs_nothing() -> None:
    accountant = Accountant("rdp", TENTH, DELTA)
    assert accountant.epsilon(1.0, 0) == accountant.epsilon(1.0, {}) == 0.0


def test_next_to_no_noise_is_next_to_no_privacy_and_quick_to_tell() -> None:
    accountant = Accountant("pld", TENTH, DELTA)
    assert 1e3 < accountant.epsilon(0.01, 100) < math.inf


def test_an_epsilon_without_any_noise_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no noise multiplier up to 1e\+06 makes 1000 rounds"):
        Accountant("rdp", ALL, 1e-12).multiplier(1e-6, 1000)


def test_privacy_losses_of_fixed_samples_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'pld' needs selector 'poisson'.* found 5 of 10 clients"
    ):
        Accountant("pld", Sampling(False, expected=5, clients=10), DELTA)


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"pip install 'hqde-fl\[privacy\]'"):
        Accountant("rdp", TENTH, DELTA).require()


def test_sampling_of_selectors() -> None:
    poisson, fixed = Sampling.of(Poisson(0.25), 10), Sampling.of(Uniform(0.25), 10)
    assert (poisson.poisson, poisson.expected, poisson.sensitivity) == (True, 2.5, 1.0)
    assert (fixed.poisson, fixed.expected, fixed.sensitivity) == (False, 2.0, 2.0)
    assert (poisson.adjacency, fixed.adjacency) == ("add-or-remove-one", "replace-one")


@pytest.mark.parametrize("selector", [Oort(), RoundRobin()], ids=["oort", "round-robin"])
def test_other_selectors_are_refused(selector: Oort | RoundRobin) -> None:
    with pytest.raises(ConfigError, match="selector must be 'poisson' or 'uniform'"):
        Sampling.of(selector, 10)
