"""The cost of each defence beside that of the geometric median, on updates of 1e6 numbers.

Rules take turns. The checks compare seconds of the processor, over all threads, which other work on
the machine changes less than those of the clock.
"""

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
"""Processor seconds of a rule over those of ``GeometricMedian``, at most."""

REASONS = {
    "FedRDF": "it sorts every coordinate's values and counts them in 64 cells",
    "LASA": "it reads the updates three times and counts their magnitudes",
}
"""Rule -> why it costs more than ``BOUND``; docs/rules.md says the same."""


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
    clocks = {"seconds": time.perf_counter, "processor-seconds": time.process_time}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in every}
    for _ in range(3 if quick else 9):
        for name, rule in every.items():
            started = {key: clock() for key, clock in clocks.items()}
            aggregate(rule, updates, cohort, states[name])
            taken[name].append({key: clock() - started[key] for key, clock in clocks.items()})
    rows: list[dict[str, Any]] = []
    verdicts = []
    medians = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in clocks}
        for name, turns in taken.items()
    }
    reference = medians["GeometricMedian"]
    print(f"{'rule':20s}{'seconds':>10s}{'ratio':>8s}{'processor':>11s}{'ratio':>8s}")
    for name, own in medians.items():
        ratios = {f"{key}-ratio": own[key] / reference[key] for key in clocks}
        rows.append({"rule": name, "n": N, "d": D, **own, **ratios})
        figures = f"{own['seconds']:10.4f}{ratios['seconds-ratio']:8.2f}"
        figures += f"{own['processor-seconds']:11.4f}{ratios['processor-seconds-ratio']:8.2f}"
        print(f"{name:20s}{figures}  {REASONS.get(name, '')}", flush=True)
        if name != "GeometricMedian":
            claim = f"{name}, n={N}, d=1e6: at most {BOUND} x GeometricMedian's processor seconds"
            if name in REASONS:
                claim += f", or the reason ({REASONS[name]})"
            verdicts.append(check(claim, ratios["processor-seconds-ratio"], BOUND, upper=True))
    return rows, verdicts
