"""The cost of each defence beside that of the geometric median, on updates of 1e6 numbers."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.reporting import check
from hqde_fl import rules
from hqde_fl.rules import Aggregator, Cohort, RoundContext, aggregate
from hqde_fl.updates import Updates

N, D = 100, 10**6
BOUND = 1.2
"""Seconds of a rule over those of ``GeometricMedian``, at most."""

REASONS: dict[str, str] = {}
"""Rule -> why it may cost more than ``BOUND``; docs/rules.md says the same."""


def defences() -> dict[str, Aggregator]:
    """Return name -> each defence that was added beside the rules of ``benchmarks/rules.py``."""
    return {
        "FLTrust": rules.FLTrust(),
        "FLAME": rules.FLAME(),
        "NormalisedMean": rules.NormalisedMean(),
        "SMEA": rules.SMEA(1),
        "FoolsGold": rules.FoolsGold(),
        "FLDetector": rules.FLDetector(),
        "LASA": rules.LASA(),
        "FedRDF": rules.FedRDF(),
    }


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Time the defences and the geometric median in turns; return rows and checks."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(N, D, generator=generator) + torch.randn(D, generator=generator)
    layers = tuple(D // 10 for _ in range(10))
    context = RoundContext(torch.randn(D, generator=generator), layers, torch.zeros(D))
    cohort, updates = Cohort(tuple(range(N)), context=context), Updates(matrix)
    every = {"GeometricMedian": rules.GeometricMedian(), **defences()}
    # a rule with a memory is timed in its second round, when it has one
    states = {name: aggregate(rule, updates, cohort).state for name, rule in every.items()}
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(3 if quick else 9):
        for name, rule in every.items():
            started = time.perf_counter()
            aggregate(rule, updates, cohort, states[name])
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    reference = medians["GeometricMedian"]
    rows: list[dict[str, Any]] = []
    verdicts = []
    print(f"{'rule':20s}{'seconds':>10s}{'ratio':>8s}")
    for name, value in medians.items():
        ratio = value / reference
        rows.append({"rule": name, "n": N, "d": D, "seconds": value, "ratio": ratio})
        print(f"{name:20s}{value:10.4f}{ratio:8.2f}  {REASONS.get(name, '')}", flush=True)
        if name != "GeometricMedian":
            claim = f"{name}, n={N}, d=1e6: at most {BOUND} x GeometricMedian's seconds"
            if name in REASONS:
                claim += f", or the reason ({REASONS[name]})"
            verdicts.append(check(claim, ratio, BOUND, upper=True))
    return rows, verdicts
