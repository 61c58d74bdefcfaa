"""Exploration noise, added to what the server optimiser is given."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from hqde_fl.noise import ExplorationNoise
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.optimizers import SGD, Moments, ServerOptimizer

TURN = "exploration-turn"
"""The key of the moments under which the number of steps lies, a tensor without dimensions."""


@final
@dataclass(frozen=True)
class Exploring(ServerOptimizer):
    """Another server optimiser that is given every update with exploration noise.

    The noise goes by the number of steps that the model has made, so that its schedule stands still
    in a round that keeps the model. The members of an ensemble get noise that is independent.

    Batch normalisation's running statistics are part of an update: where they may come close to
    zero, keep the noise small.

    Parameters
    ----------
    noise : ExplorationNoise
        Which noise.
    inner : ServerOptimizer
        What moves the model; ``SGD()`` adds the noisy update to it.
    seed : int
        The run's seed.
    """

    noise: ExplorationNoise = field(default_factory=ExplorationNoise)
    inner: ServerOptimizer = field(default_factory=SGD)
    seed: int = 0

    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """One step of the inner optimiser."""
        turn = int(moments[TURN]) if TURN in moments else 0
        # The members of an ensemble are moved one by one, and only their updates tell them apart.
        own = zlib.crc32(delta.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        seeds = Seeds(Seeds(self.seed).integer("exploration-noise", own))
        noisy = self.noise.perturbed(delta, turn, seeds)
        rest = {name: value for name, value in moments.items() if name != TURN}
        step, kept = self.inner.step(noisy, rest)
        return step, {**kept, TURN: torch.tensor(turn + 1)}
