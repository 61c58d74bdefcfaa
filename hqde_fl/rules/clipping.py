"""Static clipping and adaptive robust clipping, ARC (Allouah et al., 2025, arXiv:2405.14432)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule, Tolerant
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State


def shortening(norms: Tensor, longest: float) -> Tensor:
    """Return the factors (n,) <= 1 that shorten updates with these norms to at most ``longest``."""
    return torch.where(norms > longest, longest / norms, 1.0)


def _clip(norms: Tensor, longest: float) -> Decision:
    return Decision(
        mixing=torch.diag(shortening(norms, longest)),
        diagnostics={"clipped": int((norms > longest).sum())},
    )


@dataclass(frozen=True)
class Clipping(Rule):
    """Pre-aggregation: no update stays longer than c, x min(1, c / ||x||); any n.

    No defence by itself: it bounds the updates that the next rule sees. O(n d) for the norms, read
    from the Gram matrix that the next rule needs as well.

    Parameters
    ----------
    c : float
        The greatest length of an update, > 0.
    """

    gram = is_preaggregation = True

    c: float = 2.0

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ConfigError(f"Clipping needs c > 0, found {self.c}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def output_rows(self, n: int) -> int:
        """Return n: every update keeps a row."""
        return n

    def breakdown(self, n: int) -> int:
        """Return n: no row stays longer than c; the next rule sets the bound."""
        return n

    def moved_rows(self, moved: float, n: int, norm: float) -> tuple[float, float]:
        """Return that a row moves no further than before, and than two updates of length c."""
        return min(moved, 2 * self.c), min(norm, self.c)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return a diagonal mixing matrix that shortens the long updates."""
        assert measured.geometry is not None
        return _clip(measured.geometry.norms(), self.c / measured.geometry.unit)


@dataclass(frozen=True)
class ARC(Tolerant):
    """Pre-aggregation: the k = floor(2 (f / n) (n - f)) longest updates clipped to the next norm.

    Makes a (f, kappa)-robust rule (f, kappa + 2 f / (n - 2f))-robust, where static clipping keeps
    no such promise, and bounds the result by an honest update's length; n > 2f. O(n d) for the
    norms, read from the Gram matrix that the next rule needs as well.

    Parameters
    ----------
    f : int
        Faulty clients to tolerate.
    """

    gram = is_preaggregation = True

    def output_rows(self, n: int) -> int:
        """Return n: every update keeps a row."""
        return n

    def composed_kappa(self, kappa: float, n: int, f: int) -> float | None:
        """Return kappa + 2 f / (n - 2f); None for another f than this rule's."""
        return kappa + 2 * f / (n - 2 * f) if f == self.f else None

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return a diagonal mixing matrix that shortens the long updates."""
        assert measured.geometry is not None
        f, n = cohort.remaining(self.f), cohort.n
        norms = measured.geometry.norms()
        longest_first = norms.sort(descending=True).values
        return _clip(norms, float(longest_first[2 * f * (n - f) // n]))
