"""Exploration noise, added to the aggregated update before the server optimiser's step."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from hqde_fl.noise import ExplorationNoise
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.optimizers import SGD, Moments, ServerOptimizer

STEP_COUNT = "exploration-turn"
"""Key in the moments of the number of steps made so far, a tensor without dimensions."""


@final
@dataclass(frozen=True)
class ExploringOptimizer(ServerOptimizer):
    """A server optimiser that adds exploration noise to every update and hands it to another one.

    The schedule of the noise counts the steps of the model, not the rounds: a round that keeps the
    model does not advance it. The members of an ensemble get independent noise.

    An update holds the weights alone: statistics, counters and frozen entries get no noise, and a
    weight of several names gets its noise once.

    Parameters
    ----------
    noise : ExplorationNoise
        Scale and schedule of the noise.
    inner : ServerOptimizer
        The optimiser that moves the model; ``SGD()``, the default, adds the noisy update to it.
    seed : int
        Seed of the noise, >= 0, by default 0.
    """

    noise: ExplorationNoise = field(default_factory=ExplorationNoise)
    inner: ServerOptimizer = field(default_factory=SGD)
    seed: int = 0

    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return the inner optimiser's step for the noisy update, and the new moments.

        The moments are the inner optimiser's and the number of steps, as ``STEP_COUNT``.
        """
        steps = int(moments[STEP_COUNT]) if STEP_COUNT in moments else 0
        # The optimiser is not told which member it moves, so the update's bits seed the noise.
        fingerprint = zlib.crc32(delta.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        seeds = Seeds(Seeds(self.seed).integer("exploration-noise", fingerprint))
        noisy = self.noise.add_noise(delta, steps, seeds)
        rest = {name: value for name, value in moments.items() if name != STEP_COUNT}
        step, new_moments = self.inner.step(noisy, rest)
        return step, {**new_moments, STEP_COUNT: torch.tensor(steps + 1)}
