"""The vote that fits how uncertain the ensemble is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.prediction.base import Vote, normalised_entropy
from hqde_fl.prediction.entanglement import EntanglementVote
from hqde_fl.prediction.superposition import SuperpositionVote
from hqde_fl.prediction.voting import CircularVote


@final
@dataclass(frozen=True)
class AdaptiveVote(Vote):
    """Entanglement, superposition or circular voting, chosen anew for every example.

    The uncertainty is the normalised entropy of the members' mean prediction, in [0, 1]: above
    ``high`` entanglement, above ``low`` superposition, otherwise circular voting.

    Parameters
    ----------
    high, low : float
        The two thresholds.
    entanglement : EntanglementVote
        For a high uncertainty.
    superposition : SuperpositionVote
        For a medium one.
    voting : CircularVote
        For a low one.
    """

    high: float = 0.5
    low: float = 0.2
    entanglement: EntanglementVote = field(default_factory=EntanglementVote)
    superposition: SuperpositionVote = field(default_factory=SuperpositionVote)
    voting: CircularVote = field(default_factory=CircularVote)

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ConfigError(
                f"AdaptiveVote needs 0 <= low <= high <= 1, found low={self.low}, high={self.high}"
            )

    def combine(self, probabilities: Tensor) -> Tensor:
        """Every example's own vote."""
        uncertainty = normalised_entropy(probabilities.mean(dim=0))[:, None]
        calm = torch.where(
            uncertainty > self.low,
            self.superposition.combine(probabilities),
            self.voting.combine(probabilities),
        )
        return torch.where(uncertainty > self.high, self.entanglement.combine(probabilities), calm)
