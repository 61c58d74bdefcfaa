"""The weighted mean: FedAvg (McMahan et al., 2017, arXiv:1602.05629), by efficiency if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State

MAX_EFFICIENCY_RATIO = 2.0
"""A client's efficiency multiplies its weight by at most this, and divides it by at most this."""


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
    efficiency : float
        Strength s in [0, 1] with which the server's measurements of a client's speed and success
        count: its weight is multiplied by (its efficiency / the median efficiency)^s, within
        [1/2, 2]. So whatever clients do to these measurements, one counts at most twice as much as
        an average one for them, and at most 4 times as much as any other. By default 0: they do not
        count; 1: fully.
    """

    weighted: bool = False
    cap: float = 10.0
    efficiency: float = 0.0

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ConfigError(f"Mean needs cap >= 1, found {self.cap}")
        if not 0 <= self.efficiency <= 1:
            raise ConfigError(f"Mean needs efficiency in [0, 1], found {self.efficiency}")

    @property
    def confidence_from(self) -> str | None:
        """``"efficiency"`` if efficiencies count, else None."""
        return "efficiency" if self.efficiency else None

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return 0: a single faulty client can move the mean anywhere."""
        return 0

    def sensitivity(self, n: int, norm: float) -> float | None:
        """Return 2 norm / n; None if clients count unequally, by what they or their times say."""
        if self.weighted or self.efficiency:
            return None
        return 2 * norm / n

    def mean_weights(self, cohort: Cohort) -> Tensor:
        """Return the clients' weights (n,): capped numbers of examples times bounded efficiencies.

        Numbers of examples are ones if the mean is not ``weighted`` or if all are 0.

        Raises ``ConfigError`` if the cohort lacks the numbers of examples or the efficiencies (as
        ``Cohort.confidence``) that it needs.
        """
        weights = self._example_weights(cohort)
        if not self.efficiency:
            return weights
        if cohort.confidence is None:
            raise ConfigError(
                f"Mean(efficiency={self.efficiency}) needs Cohort.confidence for every row"
            )
        return weights * efficiency_factors(cohort.confidence, self.efficiency)

    def _example_weights(self, cohort: Cohort) -> Tensor:
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


def efficiency_factors(efficiency: Sequence[float], strength: float) -> Tensor:
    """Return the factors (n,) by which efficiencies >= 0 change weights; 1 at the median.

    They are (efficiency / median)^strength, within [1 / ``MAX_EFFICIENCY_RATIO``,
    ``MAX_EFFICIENCY_RATIO``].
    """
    values = torch.tensor(efficiency, dtype=torch.float64).clamp(0, 1)
    ratios = values / values.median()
    ratios = torch.where(values == values.median(), 1.0, ratios)  # also where the median is 0
    # one by one: in a vector, the last bits of a power depend on the place
    factors = torch.tensor([ratio**strength for ratio in ratios.tolist()], dtype=torch.float64)
    return factors.clamp(1 / MAX_EFFICIENCY_RATIO, MAX_EFFICIENCY_RATIO)
