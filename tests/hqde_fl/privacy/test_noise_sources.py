"""Every noise source: exactly Gaussian, of the deviation asked for, on the values given."""

import math

import numpy as np
import pytest
from scipy import stats

from hqde_fl.errors import ConfigError
from hqde_fl.privacy import NOISE_SOURCES, NoiseSource
from hqde_fl.privacy.quantum_gaussian import QuantumGaussian
from hqde_fl.privacy.rounded_normal import GRID_BITS
from hqde_fl.privacy.secure_gaussian import SecureGaussian

NAMES = list(NOISE_SOURCES)
SIZE = 100_000


def noise_of(source: NoiseSource, deviation: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return the noise that a source adds to zeros."""
    return source.add_noise(np.zeros(SIZE), deviation, deviation, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("deviation", [1e-6, 0.7, 1e4])
def test_moments(name: str, deviation: float) -> None:
    noise = noise_of(NOISE_SOURCES.build({"name": name}), deviation) / deviation
    assert abs(noise.mean()) < 5 / math.sqrt(SIZE)
    assert noise.var() == pytest.approx(1, abs=5 * math.sqrt(2 / SIZE) + 1e-3)
    assert abs(stats.skew(noise)) < 5 * math.sqrt(6 / SIZE)
    assert abs(stats.kurtosis(noise)) < 5 * math.sqrt(24 / SIZE)
    assert stats.kstest(noise, "norm").pvalue > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_values_are_kept_but_for_the_noise(name: str) -> None:
    source, values = NOISE_SOURCES.build({"name": name}), np.linspace(-3, 3, SIZE)
    before = values.copy()
    noised = source.add_noise(values, 1e-3, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(values, before)
    assert noised.dtype == np.float64
    assert np.abs(noised - values).max() < 1e-3 * 6.5


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_independent_of_each_other_and_of_the_next_draw(name: str) -> None:
    source, rng = NOISE_SOURCES.build({"name": name}), np.random.default_rng(0)
    first, second = (source.add_noise(np.zeros(SIZE), 1.0, 1.0, rng) for _ in range(2))
    bound = 5 / math.sqrt(SIZE)
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < bound
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < bound


@pytest.mark.parametrize("name", NAMES)
def test_what_is_seeded_repeats_and_nothing_else_does(name: str) -> None:
    source = NOISE_SOURCES.build({"name": name})
    assert np.array_equal(noise_of(source), noise_of(source)) is source.seeded
    assert not np.array_equal(noise_of(source), noise_of(source, seed=1))


class TestSecureGaussian:
    def test_all_results_are_on_one_grid(self) -> None:
        """However the values differ: the last bits of a result say nothing of them."""
        steps = []
        for values in (np.zeros(500), np.full(500, math.pi), np.linspace(-1e3, 1e3, 500)):
            noised = SecureGaussian().add_noise(values, 2.0, 1.0, np.random.default_rng(0))
            coarseness = math.sqrt(500) * 2.0 * 2.0**-GRID_BITS
            step = 2.0 * (1 + 2.0**-20) / (1 - coarseness) * 2.0**-GRID_BITS
            steps.append(noised / step)
        assert all(np.abs(own - np.rint(own)).max() < 1e-4 for own in steps)

    @pytest.mark.parametrize(("size", "multiplier"), [(1, 0.5), (1_000, 50.0), (10**6, 1.0)])
    def test_noise_covers_what_rounding_adds_to_the_sensitivity(
        self, size: int, multiplier: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Noise over (sensitivity + rounding error) is at least the multiplier."""
        monkeypatch.setattr(
            "hqde_fl.privacy.secure_gaussian.rounded_normal",
            lambda words, n: np.ones(n, dtype=np.int64),  # one step of the grid
        )
        rng = np.random.default_rng(0)
        step = SecureGaussian().add_noise(np.zeros(size), multiplier * 3.0, 3.0, rng)[0]
        deviation = step * 2.0**GRID_BITS
        assert deviation / (3.0 + math.sqrt(size) * step) >= multiplier
        assert deviation <= 3.0 * multiplier * 1.001

    def test_huge_values_are_cut_off_rather_than_lost(self) -> None:
        noised = SecureGaussian().add_noise(
            np.array([1e200, -1e200]), 1.0, 1.0, np.random.default_rng(0)
        )
        assert np.isfinite(noised).all()
        assert noised[0] == pytest.approx(2.0**22, rel=1e-5) == -noised[1]

    def test_a_grid_too_coarse_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"sqrt\(d\) x noise multiplier <= 2\^27, found"):
            SecureGaussian().add_noise(np.zeros(4), 1e9, 1.0, np.random.default_rng(0))

    def test_a_million_numbers_differ(self) -> None:
        noise = SecureGaussian().add_noise(np.zeros(10**6), 1.0, 1.0, np.random.default_rng(0))
        assert len(np.unique(noise)) > 990_000


class TestQuantumGaussian:
    def test_it_is_independent_of_its_phase(self) -> None:
        """Among draws of any phase the noise has the same law."""
        rng = np.random.default_rng(7)
        noise = QuantumGaussian().add_noise(np.zeros(SIZE), 1.0, 1.0, rng)
        phase = np.random.default_rng(7).uniform(0, 2 * np.pi, SIZE)  # drawn first, from that seed
        for quarter in range(4):
            own = noise[(phase // (np.pi / 2)).astype(int) == quarter]
            assert own.var() == pytest.approx(1, abs=0.05)
            assert stats.kstest(own, "norm").pvalue > 0.001

    def test_the_algebra(self) -> None:
        """The amplitudes' squares sum to one, so that a sum of normals is normal again."""
        phase = np.linspace(-10, 10, 1001)
        np.testing.assert_allclose(np.cos(phase) ** 2 + np.sin(phase) ** 2, 1, rtol=1e-15)

    def test_a_lone_cosine_is_not_gaussian(self) -> None:
        """HQDE's own noise: its variance is a half, and its kurtosis 3/2 rather than 0."""
        rng = np.random.default_rng(0)
        noise = np.cos(rng.uniform(0, 2 * np.pi, SIZE)) * rng.standard_normal(SIZE)
        assert noise.var() == pytest.approx(0.5, abs=0.02)
        assert stats.kurtosis(noise) == pytest.approx(1.5, abs=0.3)
