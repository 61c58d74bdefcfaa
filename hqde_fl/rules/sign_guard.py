"""SignGuard: filtering by norms and by sign statistics (Xu et al., 2022, arXiv:2109.05872)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class SignGuard(Rule):
    """Mean of the updates with a plausible norm and plausible signs, clipped to the median norm.

    An update is kept if its norm lies between ``low`` and ``high`` times the median norm *and* it
    belongs to the largest cluster by the fractions of its coordinates that are positive, zero and
    negative. The paper counts signs on a random tenth of the coordinates; here all are counted, so
    nothing is random. Its clustering, mean shift, is here with a flat kernel of the median distance
    to the floor(n / 2)-th neighbour. Tolerates f < n / 2 in that no kept update is longer than the
    median norm; signs are a heuristic, and an attack that mimics them passes. O(n d) for the signs,
    O(n^2 d) for the Gram matrix that the norms are read from.

    Parameters
    ----------
    low, high : float
        Bounds of a plausible norm, in median norms.
    """

    gram = scored = True

    low: float = 0.1
    high: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1 < self.high:
            raise ConfigError(
                f"SignGuard needs 0 <= low < 1 < high, found low={self.low}, high={self.high}"
            )

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2."""
        return (n - 1) // 2

    def score(self, tile: Tensor) -> Tensor:
        """Return (n, 3) numbers of positive, zero and negative coordinates in a tile."""
        positive, negative = (tile > 0).sum(dim=1), (tile < 0).sum(dim=1)
        zero = tile.shape[1] - positive - negative
        return torch.stack([positive, zero, negative], dim=1).to(torch.float64)

    def filters(self, n: int) -> bool:
        """Return True for two or more updates: those that are not kept are filtered."""
        return n > 1

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return equal weights for the plausible updates, clipped to the median norm."""
        assert measured.geometry is not None
        assert measured.score is not None
        norms = measured.geometry.norms()
        typical = float(norms.median())
        by_norm = (norms >= self.low * typical) & (norms <= self.high * typical)
        by_sign = largest_cluster(measured.score / measured.score.sum(dim=1, keepdim=True))
        kept = by_norm & by_sign
        if not kept.any():  # the two tests filter every update: lengths are harder to forge
            kept = by_norm
        weights = torch.where(kept, shortening(norms, typical), 0.0) / kept.sum()
        return Decision(
            mixing=weights[None, :],
            filtered=~kept,
            diagnostics={
                "guard-norm": int((~by_norm).sum()),
                "guard-sign": int((~by_sign).sum()),
            },
        )


def largest_cluster(points: Tensor) -> Tensor:
    """Return which of (n, k) points form the largest flat-kernel mean-shift cluster, (n,) bool."""
    n = points.shape[0]
    distances = (points[:, None, :] - points[None, :, :]).norm(dim=2)
    reach = float(distances.sort(dim=1).values[:, (n - 1) // 2 + (n - 1) % 2].median())
    modes = points
    for _ in range(100):
        near = ((modes[:, None, :] - points[None, :, :]).norm(dim=2) <= reach).to(torch.float64)
        shifted = near @ points / near.sum(dim=1, keepdim=True).clamp(min=1)
        if torch.allclose(shifted, modes, rtol=0, atol=1e-12):
            break
        modes = shifted
    together = (modes[:, None, :] - modes[None, :, :]).norm(dim=2) <= reach + 1e-12
    largest: Tensor = together[int(together.sum(dim=1).argmax())]
    return largest
