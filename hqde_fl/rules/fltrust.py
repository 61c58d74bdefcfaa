"""FLTrust: trust from an update of the server's own (Cao et al., 2021, arXiv:2012.13995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.rules.round_context import Need
from hqde_fl.rules.stretching import stretching


@dataclass(frozen=True)
class FLTrust(Rule):
    """Mean of updates brought to the length of the server's own, weighted by their cosine to it.

    The server trains the same model on a few root examples of its own, which gives the reference
    update g (``RoundContext.reference``). An update counts by its trust max(0, cos(x_i, g)):
    sum_i trust_i x_i ||g|| / ||x_i|| over the sum of trust. Those without trust are filtered. If
    nobody is trusted, the result is g itself, and no client has influence.

    The result is never longer than g, however many clients are faulty, and its direction is as good
    as the root examples. (``breakdown`` is that of a majority of honest clients, which statistics
    such as those of batch normalisation need.) Any n. O(n^2 d) for the Gram matrix, one weighted
    sum; the server's training comes on top.
    """

    gram = True

    @property
    def needs(self) -> frozenset[Need]:
        """The reference update."""
        return frozenset({"reference"})

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2; the weights are bounded beyond it, too."""
        return (n - 1) // 2

    def filters(self, n: int) -> bool:
        """Return True if n > 1: updates that point away from the reference are filtered."""
        return n > 1

    def added_rows(self, cohort: Cohort, state: State, size: int) -> Sequence[Tensor]:
        """Return the reference update."""
        return (cohort.context.needed_reference(self),)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return the weights of the updates, and that of the reference if nobody is trusted."""
        assert measured.geometry is not None
        geometry, n = measured.geometry, cohort.n
        lengths = geometry.norms()
        target = float(lengths[n])
        factors = stretching(lengths[:n], target)
        directions = torch.where(lengths[:n] > 0, geometry.products()[:n, n] / lengths[:n], 0.0)
        cosines = directions / target if target > 0 else torch.zeros_like(directions)
        trust = torch.where(factors > 0, cosines.clamp(0, 1), 0.0)
        if target == 0:  # only an update that equals the reference, zero, agrees with it
            trust = (lengths[:n] == 0).double()
            factors = torch.ones_like(trust)
        mixing = torch.zeros(1, n + 1, dtype=torch.float64)
        if trust.any():
            mixing[0, :n] = trust * factors / trust.sum()
        else:
            mixing[0, n] = 1.0
        filtered = trust == 0
        return Decision(
            mixing=mixing,
            filtered=None if bool(filtered.all()) else filtered,
            diagnostics={"trust": dict(zip(map(str, cohort.ids), trust.tolist(), strict=True))},
        )
