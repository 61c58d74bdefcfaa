"""The closed form of Gaussian noise, and local differential privacy by it."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.analytic_gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu
from hqde_fl.privacy.local import LocalDP


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 6.0])
def test_delta_is_the_hockey_stick_divergence(mu: float, epsilon: float) -> None:
    """Its definition: the integral of (p - e^epsilon q)+ over the outputs."""
    crossing = epsilon / mu + mu / 2  # where p = e^epsilon q

    def excess(x: float) -> float:
        return stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x)

    expected = integrate.quad(excess, crossing, crossing + 40, epsabs=1e-13)[0]
    assert gaussian_delta(mu, epsilon) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
@pytest.mark.parametrize("epsilon", [0.05, 1.0, 8.0, 60.0])
def test_epsilon_and_mu_are_inverse(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_delta(mu, epsilon) <= delta
    assert gaussian_delta(mu * 1.001, epsilon) > delta


def test_known_values() -> None:
    """sigma = 3.730632 at (1, 1e-5): Balle and Wang's analytic Gaussian mechanism."""
    assert 1 / gaussian_mu(1.0, 1e-5) == pytest.approx(3.730632, abs=1e-5)
    classical = math.sqrt(2 * math.log(1.25 / 1e-5))
    assert 1 / gaussian_mu(1.0, 1e-5) < classical
    assert gaussian_epsilon(0.0, 1e-5) == 0


def test_noise_that_nobody_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="practical size, found 1e-12 and 1e-12"):
        gaussian_mu(1e-12, 1e-12)


class TestLocalDP:
    def test_the_sensitivity_is_the_distance_of_two_updates(self) -> None:
        settings = LocalDP(1.0, clipping_norm=0.5)
        assert settings.deviation == pytest.approx(3.730632 * 2 * 0.5, abs=1e-4)

    def test_updates_compose(self) -> None:
        """k updates are one with the k-fold of the squared mu, and cost less than their sum."""
        settings = LocalDP(0.5)
        assert settings.composed_epsilon(0) == 0
        assert settings.composed_epsilon(1) == pytest.approx(0.5, rel=1e-6)
        spent = [settings.composed_epsilon(k) for k in range(1, 30)]
        assert all(np.diff(spent) > 0)
        assert spent[-1] < 29 * 0.5
        assert spent[3] == pytest.approx(gaussian_epsilon(2 * settings.mu, 1e-5), rel=1e-9)

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"epsilon": 0.0}, r"LocalDP.epsilon must be finite and > 0, found 0"),
            ({"epsilon": math.inf}, r"LocalDP.epsilon must be finite"),
            ({"epsilon": 1.0, "delta": 1.0}, r"LocalDP.delta must be in \(0, 1\), found 1"),
            ({"epsilon": 1.0, "clipping_norm": -1.0}, r"LocalDP.clipping_norm must be finite"),
            (
                {"epsilon": 3.0, "max_epsilon": 2.0},
                r"must be 0 or finite and >= epsilon = 3",
            ),
        ],
        ids=["no epsilon", "infinite", "delta", "norm", "limit"],
    )
    def test_impossible_settings(self, keys: dict[str, float], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            LocalDP(**keys)
