"""A schedule of the server optimiser's learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from hqde_fl.schedules import Schedule, scheduled_rate
from hqde_fl.strategies.optimizers import SGD, Moments, ServerOptimizer

STEP_COUNT = "schedule-steps"
"""Key in the moments of the number of steps made so far, a tensor without dimensions."""


@final
@dataclass(frozen=True)
class ScheduledOptimizer(ServerOptimizer):
    """A server optimiser whose learning rate follows a schedule.

    The schedule counts the steps of the model: those are the rounds, but for a round that keeps the
    model, which does not advance it. Moments do not depend on the learning rate.

    Parameters
    ----------
    schedule : Schedule
        The factor of the learning rate in each step.
    inner : ServerOptimizer
        The optimiser, whose step is multiplied by the factor; ``SGD()`` by default.
    """

    schedule: Schedule
    inner: ServerOptimizer = field(default_factory=SGD)

    def step(self, delta: Tensor, moments: Moments) -> tuple[Tensor, Moments]:
        """Return the inner optimiser's step times the factor, and the new moments.

        The moments are the inner optimiser's and the number of steps, as ``STEP_COUNT``.
        """
        steps = int(moments[STEP_COUNT]) if STEP_COUNT in moments else 0
        rest = {name: value for name, value in moments.items() if name != STEP_COUNT}
        step, new_moments = self.inner.step(delta, rest)
        factor = scheduled_rate(1.0, self.schedule, steps + 1)
        step = step if factor == 1 else factor * step
        return step, {**new_moments, STEP_COUNT: torch.tensor(steps + 1)}
