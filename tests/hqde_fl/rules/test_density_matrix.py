"""The density matrix against NumPy on the updates themselves."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.density_matrix import (
    correlation,
    cosines,
    density,
    diagnostics,
    entropy,
    fidelity,
    purity,
    spectrum,
)
from hqde_fl.rules.executor import SerialExecutor
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.updates import Updates


def geometry_of(updates: Tensor) -> Geometry:
    return measure_geometry(Updates(updates), SerialExecutor())


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) + 0.3


def random_density(n: int, seed: int) -> Tensor:
    factor = draw(n, n + 2, seed)
    gram = factor @ factor.T
    return gram / gram.trace()


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_the_three_kinds_of_states(n: int) -> None:
    updates = draw(n, 12)
    geometry = geometry_of(updates)
    rows = updates.numpy()
    raw = rows @ rows.T
    unit = raw / np.sqrt(np.outer(raw.diagonal(), raw.diagonal()))
    centred = (rows - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T
    for states, gram in (("raw", raw), ("unit", unit), ("centred", centred)):
        rho = density(geometry, states)
        torch.testing.assert_close(rho, rho.T)
        expected = gram / gram.trace() if gram.trace() > 1e-12 else np.full((n, n), 1 / n)
        np.testing.assert_allclose(rho, expected, rtol=1e-9, atol=1e-12)
        assert float(rho.trace()) == pytest.approx(1)
        assert 1 / n - 1e-12 <= purity(rho) <= 1 + 1e-12


def test_centred_states_are_the_spectrum_of_a_principal_component_analysis() -> None:
    updates = draw(9, 5)
    shares = np.linalg.svd(updates.numpy() - updates.numpy().mean(axis=0))[1] ** 2
    np.testing.assert_allclose(
        spectrum(density(geometry_of(updates), "centred"))[:5], shares / shares.sum(), atol=1e-12
    )


def test_pure_and_mixed() -> None:
    alike = density(geometry_of(draw(1, 8).expand(6, 8).contiguous()))
    assert purity(alike) == pytest.approx(1)
    assert entropy(alike) == pytest.approx(0, abs=1e-9)
    assert correlation(alike) == pytest.approx(1)
    apart = density(geometry_of(torch.eye(6, dtype=torch.float64) * torch.arange(1, 7)[:, None]))
    assert purity(apart) == pytest.approx(1 / 6)
    assert entropy(apart) == pytest.approx(1)
    assert entropy(apart, normalised=False) == pytest.approx(math.log(6))
    assert entropy(apart, rank=12) == pytest.approx(math.log(6) / math.log(12))
    assert correlation(apart) == pytest.approx(0, abs=1e-12)
    assert spectrum(apart).tolist() == pytest.approx([1 / 6] * 6)


def test_zero_updates_and_a_single_client() -> None:
    for states in ("unit", "raw", "centred"):
        for updates in (torch.zeros(4, 3), torch.ones(1, 3)):
            rho = density(geometry_of(updates.double()), states)  # type: ignore[arg-type]
            assert purity(rho) == pytest.approx(1)
            assert entropy(rho) == pytest.approx(0, abs=1e-12)
    assert correlation(density(geometry_of(torch.ones(1, 3).double()))) == 1.0


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1e20, 1e150])
def test_the_scale_does_not_matter(scale: float) -> None:
    updates = draw(5, 9)
    for states in ("unit", "raw", "centred"):
        near = density(geometry_of(updates), states)  # type: ignore[arg-type]
        far = density(geometry_of(updates * scale), states)  # type: ignore[arg-type]
        torch.testing.assert_close(far, near, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("long", [1e3, 1e8, 1e15, 1e30])
def test_cosines_of_very_unequal_lengths(long: float) -> None:
    updates = draw(7, 20)
    unit = updates / updates.norm(dim=1, keepdim=True)
    expected = unit @ unit.T
    lengths = torch.tensor([1, long, 1, 1, long, 1 / long, 1], dtype=torch.float64)
    torch.testing.assert_close(
        cosines(geometry_of(updates * lengths[:, None])), expected, rtol=0, atol=1e-6
    )


def test_inner_products_far_from_the_pivot() -> None:
    """Most clients far away together, two near the origin: the short ones keep their precision."""
    updates = draw(9, 20)
    updates[:7] = 1e9 * draw(1, 20, seed=3) + 1e-3 * updates[:7]
    expected = updates @ updates.T
    found = geometry_of(updates).products()
    torch.testing.assert_close(found[7:, 7:], expected[7:, 7:], rtol=1e-6, atol=0)


def test_fidelity() -> None:
    rho, sigma = random_density(6, 1), random_density(6, 2)
    assert fidelity(rho, rho) == pytest.approx(1)
    assert fidelity(rho, sigma) == pytest.approx(fidelity(sigma, rho))
    assert 0 < fidelity(rho, sigma) < 1
    one, other = (row / row.norm() for row in draw(2, 6, seed=4))
    pure = fidelity(torch.outer(one, one), torch.outer(other, other))
    assert pure == pytest.approx(float(one @ other) ** 2, abs=1e-9)
    first, second = torch.eye(2, dtype=torch.float64)
    assert fidelity(torch.outer(first, first), torch.outer(second, second)) < 1e-12
    p, q = torch.tensor([0.2, 0.8]).double(), torch.tensor([0.5, 0.5]).double()
    assert fidelity(p.diag(), q.diag()) == pytest.approx(float((p * q).sqrt().sum()) ** 2)
    with pytest.raises(ValueError, match="one shape"):
        fidelity(rho, rho[:3, :3])


def test_diagnostics_from_round_to_round() -> None:
    updates = draw(6, 9)
    found, state = diagnostics(geometry_of(updates), ids=[4, 7, 1, 9, 3, 8])
    assert set(found) == {
        "density-purity",
        "density-entropy",
        "density-leading",
        "density-correlation",
    }
    assert found["density-leading"] ** 2 <= found["density-purity"] <= found["density-leading"]
    again, _ = diagnostics(geometry_of(updates[[2, 0, 3]]), ids=[1, 4, 9], previous=state)
    assert again["density-fidelity"] == pytest.approx(1)
    turned, _ = diagnostics(geometry_of(draw(6, 9, seed=5)), [4, 7, 1, 9, 3, 8], state)
    assert 0 < turned["density-fidelity"] < 1 - 1e-3
    strangers, _ = diagnostics(geometry_of(updates), ids=range(20, 26), previous=state)
    assert "density-fidelity" not in strangers


def test_an_unknown_kind_of_states() -> None:
    with pytest.raises(ConfigError, match="unit, raw, centred: 'mixed'"):
        density(geometry_of(draw(3, 3)), "mixed")  # type: ignore[arg-type]
