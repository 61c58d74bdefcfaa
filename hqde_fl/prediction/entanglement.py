"""Entanglement of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.prediction.base import Vote, overlaps, weighted
from hqde_fl.seeding import Seeds


@final
@dataclass(frozen=True)
class EntanglementVote(Vote):
    """Weights in proportion to each member's mean overlap with the others, example by example.

    A member that puts everything on a class that nobody else considers counts for nothing. Its
    classical twin is a vote weighted by pairwise agreement.

    Parameters
    ----------
    coupling : "measured" or "random"
        ``"random"`` is HQDE's original: E is a symmetric random matrix times ``strength`` with
        ones on its diagonal, S the cosines between the members' predictions for the whole batch,
        and the weights softmax(diag(S E)). It depends on the seed and on the batch. For comparison.
    strength : float
        Of the random coupling.
    seed : int
        Of the random coupling.
    """

    coupling: Literal["measured", "random"] = "measured"
    strength: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.coupling not in ("measured", "random"):
            raise ConfigError(
                f"EntanglementVote needs coupling among measured, random: {self.coupling!r}"
            )
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"EntanglementVote needs finite strength >= 0, found {self.strength}")

    def combine(self, probabilities: Tensor) -> Tensor:
        """The weighted sum."""
        members, examples, _ = probabilities.shape
        if self.coupling == "random":
            weights = self._original(probabilities)[:, None].expand(members, examples)
            return weighted(weights, probabilities)
        claims = overlaps(probabilities).sum(dim=2).T
        total = claims.sum(dim=0)
        return weighted(torch.where(total > 0, claims / total, 1 / members), probabilities)

    def _original(self, probabilities: Tensor) -> Tensor:
        """(m,) HQDE's softmax(diag(S E))."""
        members = probabilities.shape[0]
        states = torch.nn.functional.normalize(probabilities.flatten(1), dim=1)
        drawn = Seeds(self.seed).numpy("entanglement", members).standard_normal((members, members))
        coupling = torch.from_numpy((drawn + drawn.T) / 2 * self.strength).fill_diagonal_(1)
        return ((states @ states.T) * coupling.to(probabilities)).sum(dim=1).softmax(dim=0)
