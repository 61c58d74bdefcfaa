"""The whole central mechanism, attacked: does a round tell whether a client took part?

``benchmarks/privacy.py`` does the same with many more draws, and at a smaller epsilon.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("dp_accounting")

from benchmarks.learning.distinguishing import (
    CLIENTS,
    CLIPPING_NORM,
    HalfNoise,
    epsilon_bound,
    released,
    settings_for,
)

DELTA = 1e-5
ABSENT = 100_000


def bound(epsilon: float, fraction: float, present: int, *, half: bool) -> float:
    """Return the lower bound of epsilon for a mechanism that claims one, or with half its noise."""
    # the closed form where all clients train; below, "pld" takes seconds
    privacy = settings_for(epsilon, fraction, DELTA, "pld" if fraction == 1 else "rdp")
    if half:
        privacy = replace(privacy, noise=HalfNoise(privacy.noise))
    seen = released(privacy, fraction, present, 1, canary=True)
    unseen = released(privacy, fraction, ABSENT, 2, canary=False)
    return epsilon_bound(seen, unseen, DELTA)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_what_is_seen_is_consistent_with_the_claim(epsilon: float, fraction: float) -> None:
    assert 0.05 * epsilon < bound(epsilon, fraction, 2000, half=False) <= epsilon


def test_half_the_noise_is_found_out() -> None:
    assert bound(4.0, 1.0, 3000, half=True) > 4.0


def test_the_released_numbers_have_the_noise_that_is_accounted_for() -> None:
    privacy = settings_for(2.0, 0.5, DELTA, "rdp")
    numbers = released(privacy, 0.5, ABSENT, 3, canary=False)
    deviation = privacy.noise_multiplier * CLIPPING_NORM / (0.5 * CLIENTS)
    assert numbers.std() == pytest.approx(deviation, rel=0.015)
    assert abs(numbers.mean()) < 5 * deviation / np.sqrt(ABSENT)
    assert abs(stats.kurtosis(numbers)) < 5 * np.sqrt(24 / ABSENT)
    with_canary = released(privacy, 0.5, 3000, 4, canary=True)
    expected = 0.5 * CLIPPING_NORM / (0.5 * CLIENTS)  # half the time, clipped
    assert with_canary.mean() == pytest.approx(expected, abs=0.1 * deviation + 0.01)
