"""Properties that every quantum-inspired rule must have on any updates."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.learning.rules import ALONE, TWINS
from benchmarks.reporting import check
from hqde_fl.rules import Entanglement, aggregate
from hqde_fl.updates import Updates

MAX_CHANGE = 1e-6
SIZE = 1000


def checks() -> list[dict[str, Any]]:
    """Return checks of identical updates, of the sum of influence, and of an opposite client."""
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(SIZE, generator=generator)
    results = []
    for name in TWINS:
        worst = excess = 0.0
        for n in range(1, 101):
            outcome = aggregate(ALONE[name], Updates(update.repeat(n, 1)))
            worst = max(worst, float((outcome.delta - update).norm() / update.norm()))
            excess = max(excess, abs(float(outcome.influence.sum()) - 1))
        claim = f"{name}: n = 1..100 identical clients, "
        results.append(check(claim + "relative change", worst, MAX_CHANGE, upper=True))
        results.append(check(claim + "sum of influence - 1", excess, MAX_CHANGE, upper=True))
    worst = 0.0
    for n in range(3, 101):
        honest = update + 0.1 * torch.randn(n - 1, SIZE, generator=generator)
        outcome = aggregate(Entanglement(), Updates(torch.cat([honest, -honest[:1]])))
        worst = max(worst, float(outcome.influence[-1]))
    claim = "entanglement: influence of an exact opposite, n = 3..100"
    return [*results, check(claim, worst, 0.0, upper=True)]
