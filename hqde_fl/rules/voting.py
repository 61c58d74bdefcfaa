"""Voting: circular means of sign votes, on every coordinate or on every client."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.bounded_weights import (
    bound_lengths,
    check_longest,
    effective_clients,
    normalised_weights,
)
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.density_matrix import cosines
from hqde_fl.rules.order_statistics import median_of_sorted
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class Voting(Rule):
    """The circular mean of sign votes, times the median size.

    A vote is a phase: +90 degrees for, -90 against, 0 for an abstention. The outcome is the angle
    of the votes' sum, as a fraction of 90 degrees: +1 or -1 for the majority, 0 for a tie, in
    between if some abstain.

    * ``votes="coordinates"``: every client votes with the sign of each of its coordinates, and the
      outcome is multiplied by the median of the coordinate's absolute values. Its classical twins
      are signSGD with majority vote (Bernstein et al., 2019, arXiv:1810.05291) and the
      coordinate-wise median. O(n d log n), no Gram matrix.
    * ``votes="updates"``: every client votes on every update, its own included, with the sign of
      their inner product. The updates that win count in proportion to their outcome, the others not
      at all.
      O(n^2 d) for the Gram matrix, one weighted sum.

    Tolerates f < n / 2 either way (votes on updates: as long as ``longest`` is not 0).

    Parameters
    ----------
    votes : "coordinates" or "updates"
        The subject of the votes.
    longest : float
        Votes on updates: one counts as no longer than this many median lengths; 0 for no bound.
    """

    votes: Literal["coordinates", "updates"] = "coordinates"
    longest: float = 2.0

    def __post_init__(self) -> None:
        if self.votes not in ("coordinates", "updates"):
            raise ConfigError(f"Voting needs votes among coordinates, updates: {self.votes!r}")
        check_longest("Voting", self.longest)

    @property
    def gram(self) -> bool:  # type: ignore[override]
        """True for votes on updates, which need inner products."""
        return self.votes == "updates"

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2; 0 for votes on updates of unbounded length."""
        return 0 if self.votes == "updates" and self.longest == 0 else (n - 1) // 2

    def filters(self, n: int) -> bool:
        """Return True for votes on updates: updates that lose are filtered."""
        return self.votes == "updates"

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the winning updates' weights; for votes on coordinates an empty decision."""
        if self.votes == "coordinates":
            return Decision()
        assert measured.geometry is not None
        votes = cosines(measured.geometry).sign()
        outcome = circular_mean(
            (votes > 0).sum(dim=0), (votes < 0).sum(dim=0), (votes == 0).sum(dim=0)
        )
        weights = normalised_weights(outcome.clamp(min=0))
        mixing = bound_lengths(weights, measured.geometry, self.longest)
        return Decision(
            mixing=mixing[None, :],
            filtered=weights == 0,
            diagnostics={"voting-effective-clients": effective_clients(weights)},
        )

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the outcome on a tile's coordinates (c,), and each client's part in it (1, n)."""
        n = tile.shape[0]
        ayes, numbers, sizes = _votes_and_sizes(tile)
        ahead = numbers.to(tile)
        absent = bool((sizes[0] == 0).any())
        if absent:
            noes = (tile < 0).t().to(tile)
            behind = noes.sum(dim=1)
            outcome = circular_mean(ahead, behind, n - ahead - behind).to(tile)
        else:  # every vote is for or against, and the angle is 90 degrees or 0
            behind = n - ahead
            outcome = (ahead - behind).sign()
        # The votes for an outcome divide the coordinate's count; if votes tie, all clients do.
        for_it, against_it, tied = outcome > 0, outcome < 0, outcome == 0
        won, lost = torch.where(for_it, 1 / ahead, 0), torch.where(against_it, 1 / behind, 0)
        counts = won @ ayes + lost @ noes if absent else (won - lost) @ ayes + lost.sum()
        counts = counts.clamp(min=0).to(torch.float64) + int(tied.sum()) / n
        return outcome * median_of_sorted(sizes), counts[None, :]


def circular_mean(ahead: Tensor, behind: Tensor, away: Tensor) -> Tensor:
    """Return the angle of the votes' sum over 90 degrees, in [-1, 1]; 0 if the votes cancel.

    Parameters
    ----------
    ahead, behind, away : Tensor
        Numbers of votes for (+i), of votes against (-i) and of abstentions (1).
    """
    net = (ahead - behind).to(torch.float64)
    return torch.atan2(net, away.to(torch.float64)) / (math.pi / 2)


def _votes_and_sizes(tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return an (n, c) tile's yes votes (c, n), 1 or 0, their numbers (c,), and its sizes (n, c).

    Sizes are absolute values, sorted in each column. A coordinate's n values are laid side by side;
    NumPy then compares, counts and sorts several times faster.
    """
    turned = tile.t().clone(memory_format=torch.contiguous_format)
    if tile.device.type != "cpu":
        ayes = turned > 0
        return ayes.to(tile), ayes.sum(dim=1), turned.abs().sort(dim=1).values.T
    values = turned.numpy()
    positive = values > 0
    ahead = np.count_nonzero(positive, axis=1)
    np.abs(values, out=values)
    values.sort(axis=1)
    return torch.from_numpy(positive.astype(values.dtype)), torch.from_numpy(ahead), turned.T
