"""Superposition: updates weighted by the squared amplitudes of a state over the clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.bounded_weights import bound_lengths, check_longest, effective_clients
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.geometric_median import GeometricMedian
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.results import Decision, Measured, State


@dataclass(frozen=True)
class Superposition(Rule):
    """Mean weighted by Born's rule: ``|a_i|^2``, with ``a = sqrt(softmax(confidence / T))``.

    The confidence in a client is, by default, the cosine between its update and the geometric
    median of all. The squared amplitudes are the
    softmax itself and sum to one, so equal clients come back unchanged. (Summing the amplitudes
    instead of their squares multiplies n equal updates by sqrt(n).) Its classical twin is a softly
    weighted mean.

    Tolerates f < n / 2 in that the result stays bounded: every client keeps some weight, a length
    beyond ``longest`` buys nothing. With ``longest=0`` it tolerates none. O(n^2 d) for the Gram
    matrix, one weighted sum.

    Parameters
    ----------
    temperature : float
        T > 0: towards 0 only the client of most confidence counts, towards infinity all count the
        same.
    longest : float
        An update counts as no longer than this many median lengths; 0 for no bound.
    confidence : "agreement", "reported", "held-out" or "efficiency"
        ``"agreement"`` with the others, as above. ``"held-out"``: the quality of each client's
        model, measured by the server on examples of its own. ``"efficiency"``: each client's speed
        and success in [0, 1], 1 / 2 for an average client, measured by the server; at T = 0.25 the
        fastest counts at most 7.4 times as much as an average one. ``"reported"``: each client's
        claim, clipped to [0, 1]. A client that claims 1 then counts e^((1 - c) / T) times as much
        as one that claims c (20 times for c = 0.25 at T = 0.25), whatever its update: use it among
        trusted clients.
    """

    gram = True

    temperature: float = 0.25
    longest: float = 2.0
    confidence: Literal["agreement", "reported", "held-out", "efficiency"] = "agreement"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"Superposition needs temperature > 0, found {self.temperature}")
        check_longest("Superposition", self.longest)
        if self.confidence not in (known := ("agreement", "efficiency", "held-out", "reported")):
            raise ConfigError(
                f"Superposition needs confidence among {', '.join(known)}: {self.confidence!r}"
            )

    @property
    def confidence_from(self) -> str | None:
        """The source of confidence: None for ``"agreement"``, which needs updates only."""
        return None if self.confidence == "agreement" else self.confidence

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2; 0 without a bound on the lengths."""
        return (n - 1) // 2 if self.longest > 0 else 0

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the squared amplitudes as weights, with the updates' lengths bounded."""
        assert measured.geometry is not None
        median = GeometricMedian().weights(measured.geometry)[0]
        confidence = self._confidence(measured.geometry, median, cohort)
        # the softmax of confidence / T, which overflows where T is tiny
        amplitudes = ((confidence - confidence.max()) / self.temperature).softmax(0).sqrt()
        weights = amplitudes**2
        weights = bound_lengths(weights / weights.sum(), measured.geometry, self.longest, median)
        return Decision(
            mixing=weights[None, :],
            diagnostics={"superposition-effective-clients": effective_clients(weights)},
        )

    def _confidence(self, geometry: Geometry, median: Tensor, cohort: Cohort) -> Tensor:
        if self.confidence == "agreement":
            return agreement(geometry, median)
        if cohort.confidence is None:
            raise ConfigError(
                f"Superposition(confidence={self.confidence!r}) needs Cohort.confidence, found None"
            )
        return torch.tensor(cohort.confidence, dtype=torch.float64).clamp(0, 1)


def agreement(geometry: Geometry, weights: Tensor) -> Tensor:
    """Return (n,) cosines between each update and ``weights @ updates``; 0 if either is zero."""
    inner = geometry.products() @ weights
    size = (weights @ inner).clamp(min=0).sqrt()
    norms = geometry.norms() * size
    return torch.where(norms > 0, inner / norms, 0).clamp(-1, 1)
