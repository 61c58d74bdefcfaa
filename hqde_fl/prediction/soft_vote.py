"""Soft vote: the mean of the members' probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.prediction.base import Vote


@final
@dataclass(frozen=True)
class SoftVote(Vote):
    """The mean of the members' class probabilities; the classical baseline."""

    def combine(self, probabilities: Tensor) -> Tensor:
        """Return the mean (n, c) over the members."""
        return probabilities.mean(dim=0)
