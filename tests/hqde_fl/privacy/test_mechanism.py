"""The mechanism clips exactly, adds the noise that it says, and adapts its norm to a quantile."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.privacy import AdaptiveClipping, CentralDP, SeededGaussian
from hqde_fl.privacy.ledger import Ledger, PrivacyState, Release
from hqde_fl.privacy.mechanism import GaussianMechanism


def mechanism(
    multiplier: float = 1.0, expected: float = 100.0, adaptive: AdaptiveClipping | None = None
) -> GaussianMechanism:
    return GaussianMechanism(2.0, multiplier, expected, SeededGaussian(), adaptive)


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e30, 1e150])
def test_no_clipped_update_is_longer_than_the_norm(scale: float) -> None:
    update = scale * np.random.default_rng(0).standard_normal(1000)
    norm = float(np.linalg.norm(update))
    clipped = mechanism().factor(norm) * update
    assert np.linalg.norm(clipped) <= 2.0
    assert np.linalg.norm(clipped) == pytest.approx(min(norm, 2.0))


def test_an_update_within_the_norm_is_not_changed() -> None:
    assert mechanism().factor(1.99) == 1.0
    assert mechanism().factor(0.0) == 1.0


def test_noise_has_the_deviation_that_is_accounted_for() -> None:
    noise = mechanism(1.5).noised(np.zeros(200_000), np.random.default_rng(1))
    assert noise.std() == pytest.approx(1.5 * 2.0, rel=0.01)
    assert noise.mean() == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("count_noise", [0.0, 0.6, 50.0])
def test_sum_and_count_cost_together_what_is_configured(count_noise: float) -> None:
    both = mechanism(1.0, adaptive=AdaptiveClipping(count_noise=count_noise))
    # a client moves the sum by 1 clipping norm, and the count by 1/2
    cost = both.sum_multiplier**-2 + (0.5 / both.count_deviation) ** 2
    assert cost == pytest.approx(1.0)
    assert both.sum_multiplier > 1.0


def test_too_little_noise_on_the_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="count_noise must be above half the noise multiplier"):
        mechanism(1.0, adaptive=AdaptiveClipping(count_noise=0.5))


def test_the_clipping_norm_reaches_the_quantile() -> None:
    norms = np.random.default_rng(3).lognormal(0.0, 1.0, 1000)
    rng, limit = np.random.default_rng(4), 20.0
    for _ in range(60):
        adaptive = AdaptiveClipping(quantile=0.7, learning_rate=0.3, count_noise=10.0)
        current = GaussianMechanism(limit, 1.0, 1000.0, SeededGaussian(), adaptive)
        limit, _ = current.next_clipping_norm(int((norms <= limit).sum()), len(norms), rng)
    assert limit == pytest.approx(np.quantile(norms, 0.7), rel=0.1)


def test_clients_that_did_not_reply_change_the_norm_by_bounded_noise_alone() -> None:
    quiet = mechanism(1.0, adaptive=AdaptiveClipping(count_noise=1.0))
    limit, fraction = quiet.next_clipping_norm(0, 0, np.random.default_rng(0))
    assert fraction == pytest.approx(0.5, abs=0.05)
    assert limit == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either noise_multiplier > 0 or target_epsilon > 0"),
        ({"noise_multiplier": 1.0, "target_epsilon": 1.0}, "= 1 and target_epsilon = 1"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be finite and >= 0, found -1"),
        ({"noise_multiplier": math.nan}, "noise_multiplier must be finite"),
        ({"target_epsilon": 1.0, "max_epsilon": 2.0}, "max_epsilon goes with noise_multiplier"),
        ({"target_epsilon": 1.0, "delta": 1.0}, r"delta must be in \(0, 1\), found 1.0"),
        ({"target_epsilon": 1.0, "clipping_norm": 0.0}, "clipping_norm must be finite and > 0"),
        ({"target_epsilon": 1.0, "accountant": "pdl"}, "unknown accountant 'pdl'"),
    ],
    ids=["none", "both", "negative", "nan", "two limits", "delta", "norm", "accountant"],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CentralDP(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"quantile": 1.0}, {"learning_rate": 0.0}, {"count_noise": -1.0}], ids=str
)
def test_impossible_adaptive_clipping_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"AdaptiveClipping.{next(iter(options))} must be"):
        AdaptiveClipping(**options)


def test_a_state_counts_each_different_release() -> None:
    state = PrivacyState(1.0, 2.0).with_release(1, "a").with_release(1, "b").with_release(2, "a")
    assert state.counts == {1: 2, 2: 1}
    assert state.with_release(1, "a") is state


def test_a_ledger_in_memory_keeps_releases() -> None:
    ledger = Ledger()
    ledger.add(Release(1, "a", 1.0))
    assert ledger.read() == (Release(1, "a", 1.0),)
