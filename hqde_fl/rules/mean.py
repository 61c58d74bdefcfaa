"""The weighted mean: FedAvg (McMahan et al., 2017, arXiv:1602.05629)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class Mean(Rule):
    """Mean of the updates, sum w_i x_i / sum w_i: not robust, one faulty client moves it anywhere.

    Tolerates no faulty client, any n. O(n d), one read of the updates.

    Parameters
    ----------
    weighted : bool
        True to weigh each update by the number of examples that its client *claims* (FedAvg),
        instead of equally.
    cap : float
        With ``weighted``: no weight exceeds ``cap`` times the median of those above zero, so that a
        lie about the number of examples has a bounded effect. At least 1; ``inf`` trusts every
        claim.
    """

    weighted: bool = False
    cap: float = 10.0

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ConfigError(f"Mean needs cap >= 1, found {self.cap}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return 0: a single faulty client can move the mean anywhere."""
        return 0

    def mean_weights(self, cohort: Cohort) -> Tensor:
        """Return the capped numbers of examples (n,); ones if not ``weighted`` or if all are 0.

        Raises ``ConfigError`` if it is ``weighted`` and the cohort has no numbers of examples.
        """
        if not self.weighted:
            return super().mean_weights(cohort)
        if cohort.num_examples is None:
            raise ConfigError("Mean(weighted=True) needs num_examples for every row")
        weights = torch.tensor(cohort.num_examples, dtype=torch.float64)
        positive = weights[weights > 0]
        if not len(positive):
            return super().mean_weights(cohort)
        return weights.clamp(max=self.cap * float(positive.median()))

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return weights in proportion to the clients' or groups' weights."""
        if cohort.group_weights is None:
            weights = self.mean_weights(cohort)
        else:
            weights = torch.tensor(cohort.group_weights, dtype=torch.float64)
        return Decision(mixing=(weights / weights.sum())[None, :])
