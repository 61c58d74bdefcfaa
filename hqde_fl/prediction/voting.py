"""Circular voting on predictions: the mean of probabilities as phases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.prediction.base import Vote

MIN_RESULTANT = 1e-6
"""Votes whose sum is shorter than this fraction of their number have no angle."""


@final
@dataclass(frozen=True)
class CircularVote(Vote):
    """The circular mean of every class's probabilities as phases, scaled to sum to one.

    A probability p is the phase pi p on the upper half circle, and the outcome is the angle of
    sum w_i e^{i pi p_i} over pi. Between members that are close it is their mean; between those
    that are sure and opposed the majority wins whole, as in a hard vote. If the votes cancel
    exactly it is one half. (HQDE's original averages the phases themselves and returns their sine,
    so that its arg max has nothing to do with the votes.)

    Parameters
    ----------
    weights : tuple of float
        The weights w >= 0, one for each member, not all 0; all the same if empty.
    """

    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < math.inf):
            raise ConfigError(
                f"CircularVote needs weights >= 0 that are not all 0, found {self.weights}"
            )

    def combine(self, probabilities: Tensor) -> Tensor:
        """Return the angles over pi (n, c), scaled to sum to one."""
        members = probabilities.shape[0]
        if self.weights and len(self.weights) != members:
            raise ConfigError(
                f"CircularVote needs one weight for each of {members} members, "
                f"found {len(self.weights)}"
            )
        given = self.weights or (1.0,) * members
        weights = torch.tensor(given, dtype=torch.float64) / sum(given)
        # In double precision: what is left of votes that nearly cancel decides.
        phases = probabilities.to(torch.float64) * math.pi
        weights = weights.to(phases.device)[:, None, None]
        real, imaginary = (weights * phases.cos()).sum(dim=0), (weights * phases.sin()).sum(dim=0)
        angles = torch.atan2(imaginary.clamp(min=0), real) / math.pi
        angles = torch.where(torch.hypot(real, imaginary) > MIN_RESULTANT, angles, 0.5)
        total = angles.sum(dim=1, keepdim=True)
        even = torch.full_like(angles, 1 / angles.shape[1])
        return torch.where(total > 0, angles / total, even).to(probabilities.dtype)
