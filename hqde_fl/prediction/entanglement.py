"""Entanglement of predictions: members weighted by their overlap with the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.prediction.base import Vote, overlaps, weighted_sum
from hqde_fl.seeding import Seeds


@final
@dataclass(frozen=True)
class EntanglementVote(Vote):
    """A vote weighted by each member's mean overlap with the others, example by example.

    A member that is certain of a class that no other member considers has no weight. Its classical
    twin is a vote weighted by pairwise agreement.

    Parameters
    ----------
    coupling : "measured" or "random"
        ``"random"`` is HQDE's original: E is a symmetric random matrix times ``strength`` with
        ones on its diagonal, S the cosines between the members' predictions for the whole batch,
        and the weights softmax(diag(S E)). It depends on the seed and on the batch. For comparison.
    strength : float
        Factor of the random coupling, finite and >= 0.
    seed : int
        Seed of the random coupling.
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
        """Return the members' weighted sum (n, c)."""
        members, examples, _ = probabilities.shape
        if self.coupling == "random":
            weights = self._original(probabilities)[:, None].expand(members, examples)
            return weighted_sum(weights, probabilities)
        claims = overlaps(probabilities).sum(dim=2).T
        total = claims.sum(dim=0)
        return weighted_sum(torch.where(total > 0, claims / total, 1 / members), probabilities)

    def _original(self, probabilities: Tensor) -> Tensor:
        """Return HQDE's weights (m,), softmax(diag(S E))."""
        members = probabilities.shape[0]
        states = torch.nn.functional.normalize(probabilities.flatten(1), dim=1)
        drawn = Seeds(self.seed).numpy("entanglement", members).standard_normal((members, members))
        coupling = torch.from_numpy((drawn + drawn.T) / 2 * self.strength).fill_diagonal_(1)
        return ((states @ states.T) * coupling.to(probabilities)).sum(dim=1).softmax(dim=0)
