"""Noise: its deviation, and that entangled noise cancels."""

import math

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.noise import EntanglementNoise, ExplorationNoise, RegularizationNoise
from hqde_fl.seeding import Seeds

SEEDS = Seeds(4)


class TestExploration:
    def test_off_by_default(self) -> None:
        delta = torch.ones(10)
        assert ExplorationNoise().add_noise(delta, 0, SEEDS) is delta

    @pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
    def test_its_deviation_is_relative_to_the_update(self, size: float) -> None:
        delta = size * torch.randn(20_000, generator=SEEDS.torch("delta"))
        noise = ExplorationNoise(0.1, "constant").add_noise(delta, 3, SEEDS) - delta
        assert float(noise.std()) == pytest.approx(0.1 * size, rel=0.03)
        assert abs(float(noise.mean())) < 0.003 * size

    def test_schedules(self) -> None:
        def factors(schedule: str) -> list[float]:
            noise = ExplorationNoise(1.0, schedule, decay=0.5, rounds=4)  # type: ignore[arg-type]
            return [noise.schedule_factor(turn) for turn in (0, 1, 2, 4, 9)]

        assert factors("constant") == [1, 1, 1, 1, 1]
        assert factors("exponential") == [math.exp(-0.5 * turn) for turn in (0, 1, 2, 4, 9)]
        assert factors("linear") == [1, 0.75, 0.5, 0, 0]
        half = (1 + math.cos(math.pi / 4)) / 2
        assert factors("cosine") == pytest.approx([1, half, 0.5, 0, 0])

    def test_noise_differs_between_rounds_and_repeats_with_the_seed(self) -> None:
        delta, noise = torch.ones(50, dtype=torch.float64), ExplorationNoise(0.1)
        copy = delta.clone()
        first = noise.add_noise(delta, 1, SEEDS)
        assert torch.equal(delta, copy)
        assert torch.equal(noise.add_noise(delta, 1, SEEDS), first)
        assert not torch.equal(noise.add_noise(delta, 2, SEEDS), first)
        assert not torch.equal(noise.add_noise(delta, 1, Seeds(5)), first)

    def test_zero_updates_stay_zero(self) -> None:
        assert not ExplorationNoise(1.0).add_noise(torch.zeros(5), 0, SEEDS).any()


class TestEntanglement:
    @pytest.mark.parametrize("neighbours", [1, 2, 5, 64])
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 33])
    def test_a_cohort_sums_to_exactly_zero(self, n: int, neighbours: int) -> None:
        ids = [int(k) for k in Seeds(n).numpy("ids").choice(1000, n, replace=False)]
        for scale in (1e-30, 3e-7, 0.01, 1e30):
            noise = EntanglementNoise(scale, neighbours)
            shares = torch.stack([noise.client_noise(own, ids, 40, 2, SEEDS) for own in ids])
            assert not shares.double().sum(dim=0).any()
            assert not shares.double().flip(0).cumsum(dim=0)[-1].any()
            assert bool(shares.isfinite().all())
            if n > 1:
                assert bool(shares.any(dim=1).all())

    def test_its_deviation_is_the_scale(self) -> None:
        for neighbours in (1, 4):
            noise = EntanglementNoise(0.3, neighbours)
            share = noise.client_noise(5, range(10), 20_000, 0, SEEDS)
            assert float(share.std()) == pytest.approx(0.3, rel=0.03)

    def test_partners_are_anticorrelated_and_others_are_not(self) -> None:
        noise = EntanglementNoise(1.0)
        shares = torch.stack(
            [noise.client_noise(own, range(6), 20_000, 0, SEEDS) for own in range(6)]
        )
        related = torch.corrcoef(shares)
        for own in range(6):
            assert float(related[own, (own + 1) % 6]) == pytest.approx(-0.5, abs=0.03)
            assert float(related[own, (own + 3) % 6]) == pytest.approx(0, abs=0.03)

    def test_the_mean_of_updates_is_unchanged(self) -> None:
        updates = torch.randn(12, 500, generator=SEEDS.torch("updates"))
        noise = EntanglementNoise(0.5, neighbours=3)
        noisy = updates + torch.stack(
            [noise.client_noise(k, range(12), 500, 0, SEEDS) for k in range(12)]
        )
        assert float((noisy - updates).std()) > 0.4
        apart = noisy.double().mean(dim=0) - updates.double().mean(dim=0)
        assert float(apart.abs().max()) <= 2**-24 * float(noisy.abs().max())
        median = noisy.median(dim=0).values - updates.median(dim=0).values
        assert float(median.abs().mean()) > 0.05

    def test_the_order_of_the_ids_does_not_matter_but_the_round_does(self) -> None:
        noise = EntanglementNoise()
        first = noise.client_noise(3, [1, 3, 8, 9], 20, 0, SEEDS)
        assert torch.equal(noise.client_noise(3, [9, 8, 3, 1], 20, 0, SEEDS), first)
        assert not torch.equal(noise.client_noise(3, [1, 3, 8, 9], 20, 1, SEEDS), first)

    def test_a_client_outside_the_cohort_is_refused(self) -> None:
        with pytest.raises(ValueError, match="client 4 among"):
            EntanglementNoise().client_noise(4, [1, 2], 3, 0, SEEDS)


class TestRegularization:
    def test_its_deviation_is_relative_to_the_gradient_and_decays(self) -> None:
        gradient = 5 * torch.randn(100, 200, generator=SEEDS.torch("gradient"))
        copy = gradient.clone()
        for step in (0, 3, 20):
            noise = RegularizationNoise(0.1, decay=0.5).draw_noise(
                gradient, step, SEEDS.torch("noise")
            )
            expected = 0.5 / math.sqrt(1 + step)
            assert float(noise.std()) == pytest.approx(expected, rel=0.03)
        assert torch.equal(gradient, copy)

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
    def test_complex_gradients_get_noise_in_both_parts(self, dtype: torch.dtype) -> None:
        generator = SEEDS.torch("gradient")
        gradient = torch.view_as_complex(5 * torch.randn(100, 100, 2, generator=generator)).conj()
        noise = RegularizationNoise(0.1, decay=0.5).draw_noise(
            gradient.to(dtype), 3, SEEDS.torch("noise")
        )
        assert noise.dtype == dtype
        for part in (noise.real, noise.imag):
            assert float(part.std()) == pytest.approx(0.25, rel=0.03)
        parts = torch.stack([noise.real.flatten(), noise.imag.flatten()])
        assert abs(float(torch.corrcoef(parts)[0, 1])) < 0.05

    def test_zero_scale_and_zero_gradients(self) -> None:
        gradient = torch.ones(5, dtype=torch.float16)
        noise = RegularizationNoise(0.0).draw_noise(gradient, 0, SEEDS.torch("noise"))
        assert noise.dtype == torch.float16
        assert not noise.any()
        assert not RegularizationNoise().draw_noise(torch.zeros(5), 0, SEEDS.torch("noise")).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExplorationNoise(-1), "finite scale >= 0, found -1"),
        (lambda: ExplorationNoise(math.inf), "finite scale >= 0, found inf"),
        (lambda: ExplorationNoise(schedule="step"), "exponential, cosine, linear: 'step'"),
        (lambda: ExplorationNoise(decay=-1), "decay >= 0 and rounds >= 1, found -1 and 100"),
        (lambda: EntanglementNoise(1e-40), "1e-30 <= scale <= 1e30, found 1e-40"),
        (lambda: EntanglementNoise(neighbours=0), "1 <= neighbours <= 64, found 0"),
        (lambda: RegularizationNoise(decay=-1), "finite decay >= 0, found -1"),
        (lambda: RegularizationNoise(scale=math.nan), "finite scale >= 0, found nan"),
    ],
)
def test_impossible_parameters(make: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()  # type: ignore[operator]
    assert message in str(error.value)
