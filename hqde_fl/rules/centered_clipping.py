"""Centred clipping (Karimireddy, He and Jaggi, 2021, arXiv:2012.10333)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class CenteredClipping(Rule):
    """Steps from the last result towards every update, none longer than tau.

    v <- v + mean_i (x_i - v) min(1, tau / ||x_i - v||), repeated ``iterations`` times; v is the
    last round's result, zero in the first. All steps run on the Gram matrix of the updates and v,
    so the updates are read twice. A faulty client moves the result by at most tau / n a step; how
    well the rule does against f < n / 2 depends on how good v is. O(n^2 d) for the Gram matrix,
    O(n^2) a step.

    Parameters
    ----------
    tau : float
        The longest step, > 0; with ``relative`` in units of the median distance from v to the
        updates.
    relative : bool
        True to let tau scale with the updates.
    iterations : int
        Steps in a round, > 0.
    """

    gram = True

    tau: float = 1.0
    relative: bool = True
    iterations: int = 3

    def __post_init__(self) -> None:
        for name in ("tau", "iterations"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"CenteredClipping needs {name} > 0, found {getattr(self, name)}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2, which a relative tau needs."""
        return (n - 1) // 2

    def remembered_rows(self, state: State) -> Sequence[Tensor]:
        """Return the last round's result; nothing in the first round."""
        return (state["centre"],) if "centre" in state else ()

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights of the updates, and of the last result, after the steps."""
        assert measured.geometry is not None
        geometry, n = measured.geometry, cohort.n
        weights = torch.zeros(geometry.n, dtype=torch.float64)  # all zero is the origin
        weights[n:] = 1.0
        clipped = 0
        for _ in range(self.iterations):
            distances = geometry.squared_distances_to(weights)[:n].sqrt()
            tau = self.tau * float(distances.median() if self.relative else 1 / geometry.unit)
            shrink = (tau / distances).nan_to_num(nan=1.0).clamp(max=1.0)
            weights = weights * (1 - shrink.mean())
            weights[:n] += shrink / n
            clipped = int((shrink < 1).sum())
        return Decision(mixing=weights[None, :], diagnostics={"clipped": clipped})

    def next_state(self, delta: Tensor, state: State) -> State:
        """Return a state that holds the result (d,), from which the next round starts."""
        return {"centre": delta.clone()}
