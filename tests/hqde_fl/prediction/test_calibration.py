"""Calibration metrics against their definitions."""

import math

import pytest
import torch

from hqde_fl.prediction import calibration_error, negative_log_likelihood


def test_likelihood() -> None:
    probability = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    expected = -(math.log(0.5) + math.log(0.1) + math.log(0.8)) / 3
    found = negative_log_likelihood(probability, torch.tensor([0, 1, 1]))
    assert found == pytest.approx(expected, rel=1e-6)
    certain = torch.tensor([[1.0, 0.0]])
    assert negative_log_likelihood(certain, torch.tensor([0])) == 0
    assert math.isfinite(negative_log_likelihood(certain, torch.tensor([1])))


def test_calibration_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = (2 * torch.randn(500, 4, dtype=torch.float64, generator=generator)).softmax(dim=1)
    target = torch.randint(4, (500,), generator=generator)
    for bins in (1, 10, 15):
        total = 0.0
        for k in range(bins):
            inside = [
                (max(row), row.index(max(row)) == true)
                for row, true in zip(probability.tolist(), target.tolist(), strict=True)
                if k / bins < max(row) <= (k + 1) / bins
            ]
            if inside:
                confidence = sum(each for each, _ in inside) / len(inside)
                accuracy = sum(right for _, right in inside) / len(inside)
                total += len(inside) / 500 * abs(confidence - accuracy)
        assert calibration_error(probability, target, bins) == pytest.approx(total)


def test_perfect_and_worst() -> None:
    certain = torch.eye(3)
    assert calibration_error(certain, torch.tensor([0, 1, 2])) == 0
    assert calibration_error(certain, torch.tensor([1, 2, 0])) == 1
    honest = torch.tensor([[0.75, 0.25]] * 4)
    assert calibration_error(honest, torch.tensor([0, 0, 0, 1])) == pytest.approx(0)


def test_shapes_that_do_not_fit() -> None:
    for probability, target in (
        (torch.ones(3), torch.zeros(3).long()),
        (torch.ones(3, 2), torch.zeros(2).long()),
        (torch.ones(0, 2), torch.zeros(0).long()),
    ):
        for metric in (negative_log_likelihood, calibration_error):
            with pytest.raises(ValueError, match="calibration needs probabilities"):
                metric(probability, target)
    with pytest.raises(ValueError, match="bins >= 1, found 0"):
        calibration_error(torch.ones(1, 1), torch.zeros(1).long(), bins=0)
