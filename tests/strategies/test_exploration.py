"""Exploration noise around a server optimiser."""

import math

import pytest
import torch

from hqde_fl.noise import ExplorationNoise
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.optimizers import SGD, Adam

DELTA = torch.randn(4000, generator=torch.Generator().manual_seed(1))


def steps(optimizer, number, delta=DELTA):
    moments, made = {}, []
    for _ in range(number):
        step, moments = optimizer.step(delta, moments)
        made.append(step)
    return made


def test_the_noise_dies_down_by_its_schedule():
    noise = ExplorationNoise(scale=0.5, schedule="exponential", decay=1.0)
    noisy = steps(ExploringOptimizer(noise, SGD(lr=2.0)), 3)
    for number, step in enumerate(noisy):
        added = step / 2 - DELTA
        expected = 0.5 * math.exp(-number) * float(DELTA.norm()) / math.sqrt(len(DELTA))
        assert float(added.norm()) / math.sqrt(len(DELTA)) == pytest.approx(expected, rel=0.1)


def test_the_same_seed_gives_the_same_noise_and_other_updates_get_other_noise():
    noise = ExplorationNoise(scale=0.5, schedule="constant")
    one = steps(ExploringOptimizer(noise, seed=1), 2)
    assert all(map(torch.equal, one, steps(ExploringOptimizer(noise, seed=1), 2)))
    assert not torch.equal(one[0], steps(ExploringOptimizer(noise, seed=2), 1)[0])
    first, second = one[0] - DELTA, one[1] - DELTA
    member = steps(ExploringOptimizer(noise, seed=1), 1, 2 * DELTA)[0] / 2 - DELTA
    for other in (second, member):
        cosine = torch.nn.functional.cosine_similarity(first, other, dim=0)
        assert abs(float(cosine)) < 0.1


def test_without_noise_it_is_the_inner_optimizer_and_its_moments_are_kept():
    for inner in (SGD(momentum=0.9), Adam()):
        quiet = ExploringOptimizer(ExplorationNoise(scale=0.0), inner)
        assert all(map(torch.equal, steps(quiet, 3), steps(inner, 3)))


def test_the_input_stays_as_it_is():
    before = DELTA.clone()
    steps(ExploringOptimizer(ExplorationNoise(scale=1.0)), 1)
    assert torch.equal(DELTA, before)


def test_numbers_that_numpy_does_not_have_are_moved_as_well():
    noise = ExploringOptimizer(ExplorationNoise(scale=0.5, schedule="constant"))
    (step,) = steps(noise, 1, DELTA.bfloat16())
    assert step.dtype == torch.bfloat16
    assert not torch.equal(step, DELTA.bfloat16())
