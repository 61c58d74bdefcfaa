"""What must be so of every quantum-inspired rule, whatever is learnt."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.learning.rules import ALONE, TWINS
from benchmarks.reporting import check
from hqde_fl.rules import Entanglement, aggregate
from hqde_fl.updates import Updates

UNCHANGED = 1e-6
SIZE = 1000


def checks() -> list[dict[str, Any]]:
    """Identical clients come back unchanged, shares sum to one, an opponent gets nothing."""
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(SIZE, generator=generator)
    found = []
    for name in TWINS:
        worst = excess = 0.0
        for n in range(1, 101):
            outcome = aggregate(ALONE[name], Updates(update.repeat(n, 1)))
            worst = max(worst, float((outcome.delta - update).norm() / update.norm()))
            excess = max(excess, abs(float(outcome.influence.sum()) - 1))
        claim = f"{name}: n = 1..100 identical clients, "
        found.append(check(claim + "relative change", worst, UNCHANGED, most=True))
        found.append(check(claim + "shares' sum - 1", excess, UNCHANGED, most=True))
    worst = 0.0
    for n in range(3, 101):
        honest = update + 0.1 * torch.randn(n - 1, SIZE, generator=generator)
        outcome = aggregate(Entanglement(), Updates(torch.cat([honest, -honest[:1]])))
        worst = max(worst, float(outcome.influence[-1]))
    claim = "entanglement: weight of an exact opposite, n = 3..100"
    return [*found, check(claim, worst, 0.0, most=True)]
