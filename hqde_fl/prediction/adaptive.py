"""A vote chosen by the ensemble's uncertainty."""

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
    """A vote by entanglement, superposition or circular voting, chosen for every example.

    The uncertainty is the normalised entropy of the members' mean prediction, in [0, 1]: above
    ``high`` entanglement, above ``low`` superposition, otherwise circular voting.

    Parameters
    ----------
    high, low : float
        The two thresholds, 0 <= low <= high <= 1.
    entanglement : EntanglementVote
        The vote for a high uncertainty.
    superposition : SuperpositionVote
        The vote for a medium uncertainty.
    voting : CircularVote
        The vote for a low uncertainty.
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
        """Return each example's distribution (n, c) by the vote that its uncertainty chooses."""
        uncertainty = normalised_entropy(probabilities.mean(dim=0))[:, None]
        less_uncertain = torch.where(
            uncertainty > self.low,
            self.superposition.combine(probabilities),
            self.voting.combine(probabilities),
        )
        entangled = self.entanglement.combine(probabilities)
        return torch.where(uncertainty > self.high, entangled, less_uncertain)
