"""Server optimisers against their formulas, written down as plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS, SGD, Adam, Yogi

DELTAS = [torch.tensor([0.5, -2.0, 0.0]), torch.tensor([0.1, 1.0, 3.0]), torch.tensor([-1.0, 0, 1])]


def loop(kind: str, lr: float, beta_1: float, beta_2: float, tau: float) -> list[float]:
    """Return the sum of the steps of Reddi et al., algorithm 2, one coordinate at a time."""
    result = []
    for coordinate in range(3):
        x, m, v = 0.0, 0.0, tau**2
        for delta in DELTAS:
            d = float(delta[coordinate])
            m = beta_1 * m + (1 - beta_1) * d
            if kind == "adam":
                v = beta_2 * v + (1 - beta_2) * d * d
            else:
                v = v - (1 - beta_2) * d * d * ((v > d * d) - (v < d * d))
            x += lr * m / (math.sqrt(v) + tau)
        result.append(x)
    return result


@pytest.mark.parametrize(("kind", "cls"), [("adam", Adam), ("yogi", Yogi)])
def test_adaptive_optimisers_follow_the_paper(kind: str, cls: type[Adam] | type[Yogi]) -> None:
    optimizer = cls(lr=0.3, beta_1=0.8, beta_2=0.9, tau=0.01)
    x, moments = torch.zeros(3), {}
    for delta in DELTAS:
        step, moments = optimizer.step(delta, moments)
        x = x + step
    torch.testing.assert_close(x, torch.tensor(loop(kind, 0.3, 0.8, 0.9, 0.01)))


def test_sgd_with_momentum_is_a_geometric_sum() -> None:
    x, moments = torch.zeros(3), {}
    for _ in range(3):
        step, moments = SGD(lr=2.0, momentum=0.5).step(torch.ones(3), moments)
        x = x + step
    torch.testing.assert_close(x, torch.full((3,), 2 * (1 + 1.5 + 1.75)))


def test_nesterov_momentum_adds_the_new_velocity_to_the_update() -> None:
    x, moments = torch.zeros(3), {}
    for _ in range(3):
        step, moments = SGD(lr=2.0, momentum=0.5, nesterov=True).step(torch.ones(3), moments)
        x = x + step
    torch.testing.assert_close(x, torch.full((3,), 2 * (1.5 + 1.75 + 1.875)))


@pytest.mark.parametrize("name", list(SERVER_OPTIMIZERS))
def test_a_step_changes_neither_the_update_nor_the_moments(name: str) -> None:
    optimizer = SERVER_OPTIMIZERS.build(name)
    delta = torch.ones(4)
    _, moments = optimizer.step(delta, {})
    kept = {key: value.clone() for key, value in moments.items()}
    optimizer.step(delta, moments)
    assert torch.equal(delta, torch.ones(4))
    assert all(torch.equal(moments[key], kept[key]) for key in kept)


def test_impossible_parameters_name_the_bound() -> None:
    with pytest.raises(ConfigError, match=r"SGD needs momentum in \[0, 1\), found 1"):
        SGD(momentum=1.0)
    with pytest.raises(ConfigError, match="Adam needs lr"):
        Adam(lr=0)
